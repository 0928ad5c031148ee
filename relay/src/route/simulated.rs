//! Name resolution in the simulator: answers are made up where the question is asked, and come some virtual time later.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::channel::{OneshotReceiver, oneshot};
use chasqui_runtime::{sleep, spawn};

use super::question::{Failure, Found, FoundHost, Outcome, Question};

/// How long an absent domain stays absent.
const NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// What the DNS of a simulation says of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulatedAnswer {
    /// Its mail exchangers, for this long.
    Hosts {
        /// Preference, name and addresses of each.
        hosts: Vec<(u16, String, Vec<IpAddr>)>,
        /// How long this holds.
        ttl: Duration,
    },
    /// It does not exist.
    NoSuchDomain,
    /// SERVFAIL, or no answer within the time that the name servers have: nothing is proven.
    Temporary(&'static str),
}

/// Called with a domain in lower case, on the shard that asks: what the answer is, and how long it takes.
type Answers = dyn Fn(&str) -> (Duration, SimulatedAnswer) + Send + Sync;

/// The names of a simulation.
#[derive(Clone)]
pub(super) struct Names(Arc<Answers>);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    pub(super) fn new(
        answers: impl Fn(&str) -> (Duration, SimulatedAnswer) + Send + Sync + 'static,
    ) -> Names {
        Names(Arc::new(answers))
    }

    pub(super) fn ask(&self, question: Question) -> OneshotReceiver<Outcome> {
        let (after, outcome) = match question {
            Question::Domain(domain) => {
                let (after, answer) = (self.0)(&domain);
                (after, found(&domain, answer))
            }
            Question::Hosts(_) => {
                let reason = "the hosts of static routes are not simulated".to_owned();
                (Duration::ZERO, Err(Failure::Temporary { reason }))
            }
        };
        let (reply, answered) = oneshot();
        spawn(async move {
            sleep(after).await;
            // Whoever asked may be gone.
            let _ = reply.send(outcome);
        });
        answered
    }
}

fn found(domain: &str, answer: SimulatedAnswer) -> Outcome {
    match answer {
        SimulatedAnswer::Hosts { hosts, ttl } => {
            let host = |(preference, name, addresses)| FoundHost { name, preference, addresses };
            Ok(Found { hosts: hosts.into_iter().map(host).collect(), ttl })
        }
        SimulatedAnswer::NoSuchDomain => {
            let reason = format!("domain {domain} does not exist");
            Err(Failure::NoSuchDomain { reason, ttl: NEGATIVE_TTL })
        }
        SimulatedAnswer::Temporary(reason) => Err(Failure::Temporary { reason: reason.to_owned() }),
    }
}
