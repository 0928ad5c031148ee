//! What fuzzers of this crate (relay/fuzz) have found, again: their corpora, and inputs by chance.

use std::path::Path;

use proptest::prelude::*;

use super::{proxy, sasl};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay/fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 10, "{inputs} inputs in {}", folder.display());
}

/// Every input of the corpora runs without a broken promise.
#[test]
fn corpora() {
    replay("proxy", proxy);
    replay("sasl", sasl);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// So do others.
    #[test]
    fn inputs(choice in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let input = [&[choice], &rest[..]].concat();
        sasl(&input);
        proxy(&input);
    }
}
