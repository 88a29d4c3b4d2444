//! Names on disk and the footer.

use crate::path;
use crate::stage::Footer;

#[test]
fn every_key_has_a_file_of_its_own_and_comes_back() {
    let long = "k".repeat(1024);
    let keys = [
        "a",
        "a/b",
        "a/b/c",
        "a//b",
        "/",
        "..",
        "../x",
        ".",
        "a+b",
        "a%2fb",
        "a,b",
        "A",
        "gr\u{fc}n",
        "a b",
        &long,
        "\u{10ffff}",
    ];
    let mut files = std::collections::BTreeSet::new();
    for name in keys {
        let file = path::file(name);
        let pieces: Vec<_> = file.iter().map(|piece| piece.to_str().expect("ASCII")).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= 255 && !piece.starts_with('.')), "{name}");
        assert_eq!(path::key(&pieces).as_deref(), Some(name));
        assert!(files.insert(file), "{name}");
    }
}

#[test]
fn the_layout_on_disk_is_fixed() {
    assert_eq!(path::file("blocks/7/a,b").to_str(), Some("blocks+7+a%2cb"));
    assert_eq!([path::folder("a"), path::folder("blocks/7/0")].map(path::folder_name), ["00", "05"]);
    let footer = Footer { hash: 0x0102, len: 3 };
    let bytes = footer.encode();
    assert_eq!(hex::encode(bytes), "000000000000000000000000000001020300000000000000".to_owned() + "4e4f4b564f424a31");
    assert_eq!(Footer::decode(&bytes, 35), Some(footer));
    assert_eq!(Footer::decode(&bytes, 36), None);
}

#[test]
fn foreign_names_are_no_keys() {
    for name in ["a%2", "a%zz", "%61", ".a", "a b", "a,"] {
        assert_eq!(path::key(&[name]), None, "{name}");
    }
}
