//! Who may import what (docs/architecture.md). Dev-dependencies are free: tests may wire anything.

use std::collections::BTreeMap;
use std::process::Command;

/// Edges between our packages.
const OURS: [(&str, &[&str]); 14] = [
    ("nokvfs-failpoint", &[]),
    ("nokvfs-types", &[]),
    ("nokvfs-protocol", &["nokvfs-types"]),
    ("nokvfs-object", &[]),
    ("nokvfs-meta", &["nokvfs-failpoint", "nokvfs-types", "nokvfs-object"]),
    ("nokvfs-body", &["nokvfs-failpoint", "nokvfs-types", "nokvfs-object", "nokvfs-meta"]),
    (
        "nokvfs-client",
        &["nokvfs-failpoint", "nokvfs-types", "nokvfs-protocol", "nokvfs-meta", "nokvfs-object", "nokvfs-body"],
    ),
    ("nokvfs-fuse", &["nokvfs-types", "nokvfs-meta", "nokvfs-body"]),
    ("nokvfs-server", &["nokvfs-failpoint", "nokvfs-types", "nokvfs-protocol", "nokvfs-meta", "nokvfs-object"]),
    ("nokvfs-devstore", &[]),
    (
        "nokvfs-cli",
        &[
            "nokvfs-types",
            "nokvfs-protocol",
            "nokvfs-meta",
            "nokvfs-object",
            "nokvfs-body",
            "nokvfs-client",
            "nokvfs-fuse",
            "nokvfs-server",
            "nokvfs-devstore",
        ],
    ),
    ("nokvfs-api", &[]),
    ("nokvfs-csi", &["nokvfs-types", "nokvfs-protocol", "nokvfs-client", "nokvfs-meta", "nokvfs-object", "nokvfs-api"]),
    ("nokvfs-operator", &["nokvfs-types", "nokvfs-client", "nokvfs-meta", "nokvfs-api"]),
];

/// Libraries that one package owns.
const OWNED: [(&str, &[&str]); 4] = [
    ("holt", &["nokvfs-meta"]),
    ("aws-sdk-s3", &["nokvfs-object"]),
    ("fuser", &["nokvfs-fuse"]),
    ("kube", &["nokvfs-api", "nokvfs-csi", "nokvfs-operator"]),
];

#[test]
fn packages_import_only_what_the_architecture_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let allowed: BTreeMap<&str, &[&str]> = OURS.into_iter().collect();
    let mut wrong = Vec::new();
    let packages = metadata["packages"].as_array().expect("packages");
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(edges) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the architecture"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            if dependency["kind"] == "dev" {
                continue;
            }
            let imported = dependency["name"].as_str().expect("a name");
            if imported.starts_with("nokvfs-") && !edges.contains(&imported) {
                wrong.push(format!("{name} imports {imported}"));
            }
            if let Some((_, owners)) = OWNED.iter().find(|(library, _)| *library == imported)
                && !owners.contains(&name)
            {
                wrong.push(format!("{name} imports {imported}, which belongs to {}", owners.join(", ")));
            }
        }
    }
    assert_eq!(packages.len(), OURS.len(), "packages of the workspace");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
