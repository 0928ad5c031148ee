//! A run and its judgement, as most tests want them.

use std::time::Duration;

use chasqui_loadgen::{ArrivalProcess, Hooks, Outcome, Placement, Rate, Scenario, start};
use chasqui_report::{Gate, Ledger, Run, Timestamp};
use chasqui_runtime::{EngineKind, available_cores};

use crate::world::World;

pub(crate) fn scenario(world: &World) -> Scenario {
    Scenario {
        rate: Rate::PerSecond(500.0),
        arrivals: ArrivalProcess::Poisson,
        warmup: Duration::from_millis(200),
        duration: Duration::from_secs(1),
        drain: Duration::from_secs(2),
        connections: 10,
        domains: 3,
        mailboxes_per_domain: 2,
        targets: vec![world.smtp.into()],
        pop3: Some(world.pop3.into()),
        pop3_poll: Duration::from_millis(100),
        arrival_streams: vec![world.arrivals.clone()],
        relay_control: Some(world.control.clone()),
        ..Scenario::default()
    }
}

pub(crate) fn placement(generators: usize, readers: usize) -> Placement {
    let core = available_cores()[0];
    Placement {
        engine: EngineKind::default(),
        generators: vec![core; generators],
        readers: vec![core; readers],
    }
}

pub(crate) fn run(scenario: Scenario, generators: usize) -> Outcome {
    let running = start(scenario, placement(generators, 1), Hooks::default()).expect("the run starts");
    let outcome = running.join().expect("the run ends");
    assert!(outcome.ledger.adds_up(), "{outcome:?}");
    assert_eq!(Ledger::from(outcome.ledger).check(), Ok(()));
    outcome
}

/// The outcome as a judged record, held against `gates`.
pub(crate) fn judged(outcome: &Outcome, gates: &[&str]) -> Run {
    let mut run = Run::new(Timestamp::from_unix(outcome.window_start_wall), outcome.window.seconds());
    run.ledger = outcome.ledger.into();
    run.due = Some(outcome.due);
    run.latency_us = outcome.recording.latency_us();
    run.validity = outcome.validity;
    run.invalid_reasons = outcome.broken.clone();
    let gates: Vec<Gate> = gates.iter().map(|gate| Gate::parse(gate).expect("a good gate")).collect();
    run.judge(&gates);
    run
}
