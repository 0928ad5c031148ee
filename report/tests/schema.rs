//! The record, its schema and its sample say the same.

mod common;

use std::path::Path;

use chasqui_report::{Column, Durability, Ledger, Run, Timestamp, Verdict};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../schema/run.schema.json");

/// Set to write the sample anew after a change of the record.
const REGENERATE: &str = "CHASQUI_REGENERATE_SAMPLE";

fn faults(record: &Value) -> Option<String> {
    let mut compiler = boon::Compiler::new();
    compiler.enable_format_assertions();
    let mut schemas = boon::Schemas::new();
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    compiler.add_resource("urn:chasqui:run:1", schema).expect("the schema has a fresh name");
    let index = compiler.compile("urn:chasqui:run:1", &mut schemas).expect("the schema is a valid schema");
    schemas.validate(record, index).err().map(|error| format!("{error:#}"))
}

/// The sample in the repository is what the crate writes today, and the schema accepts it.
#[test]
fn sample_is_current_and_valid() {
    let run = common::run(&common::recording());
    assert_eq!(run.verdict, Verdict::Pass, "{:?} {:?}", run.invalid_reasons, run.gates);
    let text = run.to_json();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/run.sample.json");
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(&path, &text).expect("the sample can be written");
    }
    let sample = std::fs::read_to_string(&path).expect("the sample is there");
    let sample: Value = serde_json::from_str(&sample).expect("the sample is JSON");
    let written: Value = serde_json::from_str(&text).expect("the record is JSON");
    assert!(
        sample == written,
        "report/schema/run.sample.json is out of date: run this test with {REGENERATE}=1"
    );
    assert_eq!(faults(&sample), None);
}

/// The schema has the ledger's columns with their meanings, and no others.
#[test]
fn ledger_has_its_columns() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let ledger = &schema["properties"]["ledger"];
    let expected: Value = Column::ALL
        .into_iter()
        .map(|column| {
            let entry = match Ledger::default().get(column) {
                Some(_) => json!({ "description": column.meaning(), "type": "integer", "minimum": 0 }),
                None => json!({ "description": column.meaning(), "$ref": "#/$defs/count" }),
            };
            (column.name().to_owned(), entry)
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(ledger["properties"], expected, "it should be\n{expected:#}");
    let required = ledger["required"].as_array().expect("it is a list");
    assert!(
        required.iter().all(|name| expected.get(name.as_str().unwrap_or_default()).is_some()),
        "{required:?}"
    );
}

/// The schema has the durability classes, and that of a run without one.
#[test]
fn durability_has_its_classes() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let names = Durability::ALL.map(|class| {
        assert_eq!(serde_json::to_value(class).expect("it is a word"), class.name());
        json!(class.name())
    });
    assert_eq!(schema["properties"]["durability"]["enum"], json!([names[0], names[1], names[2], null]));
}

/// A run of which nothing is known is a valid record: every unknown figure is null, and read back it is the same.
#[test]
fn a_run_without_figures_is_valid_and_null() {
    let run = Run::new(Timestamp::from_unix(std::time::Duration::from_secs(1_700_000_000)), 10.0);
    let record = serde_json::to_value(&run).expect("a record is JSON");
    assert_eq!(faults(&record), None);
    for path in ["/throughput/accepted_per_s", "/latency_us/visible", "/ledger/lost", "/syncs/count", "/seed"]
    {
        assert_eq!(record.pointer(path), Some(&Value::Null), "{path}");
    }
    assert_eq!(record["started"], "2023-11-14T22:13:20Z");
    assert_eq!(Run::from_json(&run.to_json()).expect("the record reads back"), run);
}

/// Keys may be added everywhere and survive reading and writing; a renamed or mistyped key is refused by the schema.
#[test]
fn keys_may_be_added_and_not_renamed() {
    let mut record = serde_json::to_value(common::run(&common::recording())).expect("a record is JSON");
    record["route_cache"] = json!({ "hits": 5 });
    record["machine"]["numa"] = json!(1);
    record["memory_bytes"]["cgroup_peak"] = json!(1024);
    record["scenario"]["weather"] = json!("fair");
    assert_eq!(faults(&record), None);
    let run = Run::from_json(&record.to_string()).expect("further keys are read");
    let again: Value = serde_json::from_str(&run.to_json()).expect("the record is JSON");
    assert_eq!(again["route_cache"]["hits"], 5);
    assert_eq!(again["machine"]["numa"], 1);
    assert_eq!(again["memory_bytes"]["cgroup_peak"], 1024);
    assert_eq!(again["scenario"], record["scenario"]);

    for (pointer, value) in [
        ("/verdict", json!("passed")),
        ("/ledger/lost", json!(-1)),
        ("/started", json!("yesterday")),
        ("/latency_us/accept/p99", json!("12ms")),
        ("/schema", json!("chasqui.run/2")),
    ] {
        let mut wrong = record.clone();
        *wrong.pointer_mut(pointer).expect("the key is there") = value;
        assert!(faults(&wrong).is_some(), "{pointer}");
    }
}
