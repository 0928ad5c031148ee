//! Everything recorded for one milestone: its total, and its seconds, those that are over in compressed form.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use super::empty_histogram;

/// Everything recorded for one milestone.
pub(super) struct Track {
    pub(super) total: Histogram<u64>,
    /// Of those, the censored ones; `None` while there is none.
    pub(super) censored: Option<Histogram<u64>>,
    open: BTreeMap<u32, Histogram<u32>>,
    /// By second since the window's start, the histogram in V2 deflate form.
    pub(super) closed: BTreeMap<u32, Vec<u8>>,
}

impl Track {
    pub(super) fn new() -> Track {
        Track { total: empty_histogram(), censored: None, open: BTreeMap::new(), closed: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, second: u32, histogram: &Histogram<u32>) {
        for step in histogram.iter_recorded() {
            self.total.saturating_record_n(step.value_iterated_to(), step.count_at_value().into());
        }
        self.interval(second).add(histogram).expect("every histogram of a run has the same bounds");
    }

    pub(super) fn record(&mut self, second: u32, latency_ns: u64, censored: bool) {
        self.total.saturating_record(latency_ns);
        if censored {
            self.censored.get_or_insert_with(empty_histogram).saturating_record(latency_ns);
        }
        self.interval(second).saturating_record(latency_ns);
    }

    fn interval(&mut self, second: u32) -> &mut Histogram<u32> {
        let closed = &mut self.closed;
        self.open
            .entry(second)
            .or_insert_with(|| closed.remove(&second).map_or_else(empty_histogram, |bytes| decode(&bytes)))
    }

    /// Compresses the oldest seconds until `open_max` are left.
    pub(super) fn close_down_to(&mut self, open_max: usize, serializer: &mut V2DeflateSerializer) {
        while self.open.len() > open_max
            && let Some((second, histogram)) = self.open.pop_first()
        {
            self.closed.insert(second, encode(&histogram, serializer));
        }
    }
}

/// V2 deflate form of a histogram.
pub(super) fn encode(histogram: &Histogram<u32>, serializer: &mut V2DeflateSerializer) -> Vec<u8> {
    let mut bytes = Vec::new();
    serializer
        .serialize(histogram, &mut bytes)
        .expect("writing to memory does not fail and counts fit 63 bits");
    bytes
}

/// The inverse of [`encode`]. It keeps the bounds, so what comes out adds to any histogram of the run.
pub(super) fn decode(bytes: &[u8]) -> Histogram<u32> {
    Deserializer::new().deserialize(&mut &bytes[..]).expect("the bytes come from encode in the same process")
}
