//! Our .proto files against the ones of the specification and of the kubelet, from their Go modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Facts of a file, by full name: fields of messages, values of enums, signatures of methods.
type Facts = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn csi_is_as_the_specification_says() {
    compare("csi", "github.com/container-storage-interface/spec", "csi.proto", "csi.proto", 11);
}

#[test]
fn registration_is_as_the_kubelet_says() {
    let theirs = "pkg/apis/pluginregistration/v1/api.proto";
    compare("k8s", "k8s.io/kubelet", theirs, "pluginregistration.proto", 1);
}

fn compare(tool: &str, module: &str, theirs: &str, ours: &str, at_least: usize) {
    let Some(dir) = module_dir(tool, module) else {
        eprintln!("skipped: go or its module {module} is not here (make tools)");
        return;
    };
    let path = dir.join(theirs);
    let theirs = facts(path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let ours = facts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto"), ours);
    assert!(ours.len() >= at_least);
    for (name, facts) in &ours {
        let wanted = theirs.get(name).unwrap_or_else(|| panic!("{name} is not in {}", path.display()));
        if name.starts_with("service ") {
            // A method left out answers UNIMPLEMENTED.
            for (method, signature) in facts {
                assert_eq!(wanted.get(method), Some(signature), "{name} {method}");
            }
        } else {
            assert_eq!(facts, wanted, "{name}");
        }
    }
}

fn module_dir(tool: &str, module: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/tools").join(tool);
    let listed = Command::new("go").args(["list", "-m", "-f", "{{.Dir}}", module]).current_dir(tools).output().ok()?;
    let dir = PathBuf::from(String::from_utf8(listed.stdout).ok()?.trim());
    (listed.status.success() && dir.is_dir()).then_some(dir)
}

fn facts(include: &Path, file: &str) -> Facts {
    let set = protox::compile([file], [include]).unwrap();
    let file = set.file.iter().find(|found| found.name() == file).unwrap();
    let mut facts = Facts::new();
    of_file(file, &mut facts);
    facts
}

fn of_file(file: &FileDescriptorProto, facts: &mut Facts) {
    let package = file.package();
    for message in &file.message_type {
        of_message(package, message, facts);
    }
    for value in &file.enum_type {
        of_enum(package, value, facts);
    }
    for service in &file.service {
        let methods = service.method.iter().map(|method| {
            let streams = (method.client_streaming(), method.server_streaming());
            (method.name().to_owned(), format!("{} -> {} {streams:?}", method.input_type(), method.output_type()))
        });
        facts.insert(format!("service {package}.{}", service.name()), methods.collect());
    }
}

fn of_message(scope: &str, message: &DescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", message.name());
    let fields = message.field.iter().map(|field| {
        let oneof = field.oneof_index.map(|index| message.oneof_decl[index as usize].name());
        let number = field.number();
        let fact =
            format!("{:?} {:?} {} = {number}, oneof {oneof:?}", field.label(), field.r#type(), field.type_name());
        (field.name().to_owned(), fact)
    });
    facts.insert(name.clone(), fields.collect());
    for nested in &message.nested_type {
        of_message(&name, nested, facts);
    }
    for value in &message.enum_type {
        of_enum(&name, value, facts);
    }
}

fn of_enum(scope: &str, of: &EnumDescriptorProto, facts: &mut Facts) {
    let values = of.value.iter().map(|value| (value.name().to_owned(), value.number().to_string()));
    facts.insert(format!("{scope}.{}", of.name()), values.collect());
}
