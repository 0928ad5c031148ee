//! Which process runs on which core, and on which engine.

use std::collections::BTreeMap;

use chasqui_runtime::EngineKind;

use crate::exit::Failure;

/// Refuses more shards than cores, which take turns, unless that is what is wanted.
pub(crate) fn check(shards: Option<usize>, oversubscribe: bool, cores: usize) -> Result<(), Failure> {
    match shards {
        Some(shards) if shards > cores && !oversubscribe => Err(Failure::Usage(format!(
            "--shards {shards}: there are {cores} cores; ask for at most as many, or add --oversubscribe to have shards \
             share cores"
        ))),
        _ => Ok(()),
    }
}

/// Cores per part; a part has one shard per entry. All parts have the same engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) engine: EngineKind,
    pub(crate) relay: Vec<usize>,
    pub(crate) sinks: Vec<usize>,
    pub(crate) loadgen: Vec<usize>,
    pub(crate) verify: Vec<usize>,
}

impl Placement {
    /// The relay has the first cores to itself, half of them unless `relay_shards` says otherwise; receivers, load
    /// generator and readers share the others. With as many relay shards as cores, all share all.
    pub(crate) fn choose(cores: &[usize], relay_shards: Option<usize>, engine: EngineKind) -> Placement {
        let shards = relay_shards.unwrap_or_else(|| (cores.len() / 2).max(1));
        let relay: Vec<usize> = cores.iter().copied().cycle().take(shards).collect();
        let others = cores.get(shards..).filter(|others| !others.is_empty()).unwrap_or(cores);
        let (sinks, loadgen, verify) = match others.len() {
            1 => (others, others, others),
            2 => (&others[..1], &others[1..], &others[1..]),
            count => {
                let third = count / 3;
                let (readers, rest) = others.split_at(third);
                let (generators, sinks) = rest.split_at(third);
                (sinks, generators, readers)
            }
        };
        Placement { engine, relay, sinks: sinks.to_vec(), loadgen: loadgen.to_vec(), verify: verify.to_vec() }
    }

    /// The part of this process.
    pub(crate) fn for_load(&self) -> chasqui_loadgen::Placement {
        chasqui_loadgen::Placement {
            engine: self.engine,
            generators: self.loadgen.clone(),
            readers: self.verify.clone(),
        }
    }

    /// As it stands in `run.json`.
    pub(crate) fn to_map(&self) -> BTreeMap<String, Vec<usize>> {
        let Placement { engine: _, relay, sinks, loadgen, verify } = self;
        let parts = [("relay", relay), ("sinks", sinks), ("loadgen", loadgen), ("verify", verify)];
        parts.map(|(part, cores)| (part.to_owned(), cores.clone())).into()
    }
}

#[cfg(test)]
mod tests {
    //! Prove: on every machine each part has a core, and the relay shares its cores only when there is no other.
    use super::*;

    #[test]
    fn two_cores() {
        let placement = Placement::choose(&[0, 1], None, EngineKind::Uring);
        assert_eq!((placement.relay, placement.sinks, placement.loadgen), (vec![0], vec![1], vec![1]));
        assert_eq!(placement.verify, [1]);
    }

    #[test]
    fn every_count_of_cores() {
        for count in 1..=32 {
            let cores: Vec<usize> = (10..10 + count).collect();
            for shards in (1..=count + 1).map(Some).chain([None]) {
                let placement = Placement::choose(&cores, shards, EngineKind::Uring);
                let Placement { engine: _, relay, sinks, loadgen, verify } = &placement;
                let others = || sinks.iter().chain(loadgen).chain(verify);
                assert!(![relay, sinks, loadgen, verify].iter().any(|part| part.is_empty()), "{placement:?}");
                assert!(others().chain(relay).all(|core| cores.contains(core)), "{placement:?}");
                assert!(relay.len() >= count || others().all(|core| !relay.contains(core)), "{placement:?}");
            }
        }
    }
}
