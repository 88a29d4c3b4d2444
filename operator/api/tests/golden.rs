//! The committed definitions are what the types say. `NOKV_UPDATE=1` writes them anew.

use std::path::Path;

#[test]
fn committed_definitions_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = String::new();
    let mut expected = vec![];
    for (file, definition) in nokvfs_api::yaml::definitions() {
        let text = serde_yaml::to_string(&definition).unwrap();
        all += &format!("---\n{text}");
        expected.push((format!("charts/nokv-crds/templates/{file}"), text.clone()));
        expected.push((format!("charts/nokv/files/crds/{file}"), text));
    }
    expected.push(("manifests/crds.yaml".into(), all));
    for (path, text) in expected {
        let file = root.join(&path);
        if std::env::var_os("NOKV_UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
        } else {
            let committed = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(committed == text, "{path} is not what the types say: run NOKV_UPDATE=1 cargo test -p nokvfs-api");
        }
    }
}
