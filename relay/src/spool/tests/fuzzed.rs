//! What the fuzzer of recovery (relay/fuzz) has found, again: its corpus and the inputs that once broke something.

use std::path::Path;

use proptest::prelude::*;

use crate::spool::fuzzing::recover;

/// Every input of the corpus and every past finding runs without a broken promise.
#[test]
fn corpus_and_findings() {
    for (folder, at_least) in [("corpus/recover", 100), ("findings/recover", 1)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            recover(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs >= at_least, "{inputs} inputs in {}", folder.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// So do programs by chance.
    #[test]
    fn programs(operations in 0u8..97, rest in prop::collection::vec(any::<u8>(), 0..600)) {
        recover(&[&[operations], &rest[..]].concat());
    }
}
