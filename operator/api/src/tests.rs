use super::*;

fn store() -> ObjectStore {
    ObjectStore {
        endpoint: "http://store.nokv.svc:9000".into(),
        bucket: "nokv".into(),
        prefix: String::new(),
        region: "us-east-1".into(),
        path_style: true,
        credentials_secret: CredentialsSecret { name: "store".into() },
    }
}

fn server(name: &str) -> MetadataServer {
    let spec = serde_json::json!({"objectStore": store()});
    let mut server = MetadataServer::new(name, serde_json::from_value(spec).unwrap());
    server.metadata.namespace = Some("ns".into());
    server
}

fn mount(name: &str) -> NoKVMount {
    let mut mount =
        NoKVMount::new(name, serde_json::from_value(serde_json::json!({"metadataServer": {"name": "m"}})).unwrap());
    mount.metadata.namespace = Some("team".into());
    mount
}

const UUID: &str = "0b66c5d4-5f0c-4d0a-9c8f-1f6c3b1a2d3e";

#[test]
fn handles_are_read_as_they_are_written() {
    let handle = VolumeHandle { namespace: "ns".into(), server: "m".into(), volume: UUID.into() };
    assert_eq!(handle.to_string(), format!("ns.m.{UUID}"));
    assert_eq!(handle.to_string().parse(), Ok(handle));
    for wrong in
        ["", "ns.m", &format!("a.b.m.{UUID}"), &format!("ns..{UUID}"), "ns.m.not-a-uuid", &format!("-n.m.{UUID}")]
    {
        let error = wrong.parse::<VolumeHandle>().unwrap_err();
        assert!(error.to_string().contains("<metadataserver>"), "{error}");
    }
    assert!(format!("ns.m.{}", UUID.to_uppercase()).parse::<VolumeHandle>().is_err());
}

#[test]
fn quantities_are_exact() {
    let cases =
        [("0", 0), ("1", 1), ("1Ki", 1024), ("1.5Gi", 3 << 29), ("20G", 20_000_000_000), ("0.1", 1), ("1Ei", 1 << 60)];
    for (text, bytes) in cases {
        assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
    }
    for wrong in ["", "Gi", "-1", "1.", ".5", "1e3", "1 Gi", "16Ei", "99999999999999999999"] {
        assert!(parse_bytes(wrong).is_err(), "{wrong}");
    }
    assert_eq!(format_bytes(0), "0");
    assert_eq!(format_bytes(1536), "1.5Ki");
    assert_eq!(format_bytes(10 << 30), "10Gi");
}

#[test]
fn a_mount_becomes_a_volume_that_a_claim_can_name() {
    let handle: VolumeHandle = format!("ns.m.{UUID}").parse().unwrap();
    let mut mount = mount("data");
    mount.spec.quota.bytes = Some("5Gi".into());
    let volume = persistent_volume(&mount, &handle, &store());
    assert_eq!(volume.metadata.name.as_deref(), Some("team.data"));
    assert_eq!(volume.metadata.labels.as_ref().unwrap()[names::LABEL_MOUNT], "data");
    let spec = volume.spec.unwrap();
    assert_eq!(spec.capacity.unwrap()["storage"].0, "5Gi");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    assert_eq!(spec.access_modes.unwrap(), ["ReadWriteMany"]);
    assert!(spec.claim_ref.is_none());
    let csi = spec.csi.unwrap();
    assert_eq!((csi.driver.as_str(), csi.volume_handle.parse()), ("csi.nokv.io", Ok(handle.clone())));
    let secret = csi.node_stage_secret_ref.unwrap();
    assert_eq!((secret.name.as_deref(), secret.namespace.as_deref()), (Some("data-stage"), Some("team")));
    let attributes = csi.volume_attributes.unwrap();
    assert_eq!(attributes["server"], "m.ns.svc:7440");
    let read = VolumeAttributes::from_map(|key| attributes.get(key).map(String::as_str));
    assert_eq!(read, Ok(VolumeAttributes::new(&handle, &store())));
    assert_eq!(VolumeAttributes::from_map(|_| None), Err("server"));
}

#[test]
fn a_stage_secret_is_read_as_it_was_made_and_never_shown() {
    let text = |name: &str| format!("{name}-text");
    let credentials = StageCredentials {
        token: text("token"),
        ca: text("ca"),
        cert: text("cert"),
        key: text("key"),
        access_key: text("access"),
        secret_key: text("secret"),
    };
    assert_eq!(format!("{credentials:?}"), "StageCredentials(..)");
    let secret = stage_secret("s", "ns", Default::default(), &credentials);
    let data = secret.data.unwrap();
    let get = |key: &str| data.get(key).map(|value| std::str::from_utf8(&value.0).unwrap());
    assert_eq!(StageCredentials::from_map(get), Ok(credentials));
    let error = StageCredentials::from_map(|key| get(key).filter(|_| key != "tls.key")).unwrap_err();
    assert!(error.to_string().contains("tls.key"), "{error}");
}

#[test]
fn the_time_of_a_condition_moves_with_its_status_only() {
    let condition = |status, time: &str| Condition {
        kind: types::READY.into(),
        status,
        reason: reasons::AS_DESIRED.into(),
        message: time.into(),
        last_transition_time: time.into(),
        observed_generation: None,
    };
    let mut all = vec![];
    set_condition(&mut all, condition(ConditionStatus::False, "1"));
    set_condition(&mut all, condition(ConditionStatus::False, "2"));
    assert_eq!((all[0].last_transition_time.as_str(), all[0].message.as_str()), ("1", "2"));
    set_condition(&mut all, condition(ConditionStatus::True, "3"));
    assert_eq!(all[0].last_transition_time, "3");
    assert_eq!(all.len(), 1);
}

fn refusal(result: Result<(), kube::core::cel::ValidationErrors>) -> String {
    result.expect_err("the rules must refuse this").to_string()
}

#[test]
fn rules_of_a_metadata_server() {
    let good = server("m");
    good.validate_cel().unwrap();
    assert!(refusal(server("M_").validate_cel()).contains("at most 40"));
    assert!(refusal(server(&"m".repeat(41)).validate_cel()).contains("at most 40"));

    let mut two = good.clone();
    two.spec.replicas = 2;
    assert!(refusal(two.validate_cel()).contains("replicas must be 1"));

    let mut both = good.clone();
    both.spec.storage = Storage { ephemeral: true, storage_class_name: Some("fast".into()), ..Storage::default() };
    assert!(refusal(both.validate_cel()).contains("ephemeral"));

    let mut path = good.clone();
    path.spec.object_store.endpoint = "store:9000".into();
    assert!(refusal(path.validate_cel()).contains("endpoint is a URL"));

    let mut moved = good.clone();
    moved.spec.object_store.bucket = "other".into();
    assert!(refusal(moved.validate_cel_update(&good)).contains("can't be changed"));

    let mut keys = good.clone();
    keys.spec.object_store.credentials_secret.name = "rotated".into();
    keys.validate_cel_update(&good).unwrap();

    let mut grown = good.clone();
    grown.spec.storage.size = "20Gi".into();
    assert!(refusal(grown.validate_cel_update(&good)).contains("storage can't be changed"));

    let mut named = good.clone();
    named.spec.storage.storage_class_name = Some("fast".into());
    named.validate_cel_update(&good).unwrap();
    assert!(refusal(good.validate_cel_update(&named)).contains("storage can't be changed"));
}

#[test]
fn rules_of_a_mount() {
    let good = mount("data");
    good.validate_cel().unwrap();
    assert!(refusal(mount("a.b").validate_cel()).contains("at most 57"));
    let mut moved = good.clone();
    moved.spec.metadata_server.name = "other".into();
    assert!(refusal(moved.validate_cel_update(&good)).contains("metadataServer can't be changed"));
    let mut grown = good.clone();
    grown.spec.quota.bytes = Some("1Gi".into());
    grown.validate_cel_update(&good).unwrap();
}

#[test]
fn namespaces_are_admitted_by_name() {
    let mut spec = server("m").spec;
    assert!(spec.admits("ns", "ns") && !spec.admits("ns", "team"));
    spec.allowed_namespaces = vec!["team".into()];
    assert!(spec.admits("ns", "team") && !spec.admits("ns", "other"));
    spec.allowed_namespaces = vec!["*".into()];
    assert!(spec.admits("ns", "other"));
}
