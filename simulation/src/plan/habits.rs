//! What a seed draws of its receivers' habits, apart from everything else that it draws.

use std::time::Duration;

use chasqui_runtime::SeededRng;
use chasqui_sinks::behaviour::{Deed, Habits, HostHabits, Kind, Parting, Slowness, Stage, Treatment};

use super::DOMAINS;
use super::dice::Dice;

/// How many seeds have receivers without habits.
const NONE: f64 = 0.35;
/// The same of those with much mail in a short time.
const NONE_HEAVY: f64 = 0.7;

/// The habits of a seed whose trouble is over after `calm_after`.
pub(crate) fn draw(seed: u64, calm_after: Duration, heavy: bool) -> Habits {
    let mut dice = Dice(SeededRng::new(seed ^ 0x6861_6269_7473_2121));
    if dice.chance(if heavy { NONE_HEAVY } else { NONE }) {
        return Habits::default();
    }
    let mut shares = Vec::new();
    for kind in Kind::QUICK {
        if dice.chance(0.4) {
            shares.push((kind, dice.spread(0.005, 0.05)));
        }
    }
    for kind in Kind::SLOW {
        if dice.chance(0.25) {
            shares.push((kind, dice.spread(0.003, 0.015)));
        }
    }
    let mut hosts = vec![HostHabits::default(); DOMAINS];
    if dice.chance(0.2) {
        hosts[0].recipients_max = Some((dice.number(1, 2) as usize, dice.chance(0.5)));
    }
    if dice.chance(0.2) {
        hosts[dice.one_of(&[0, 3, 4])].refuses_reset = true;
    }
    if dice.chance(0.25) {
        hosts[3].first_of_two = Some((dice.one_of(&[0.5, 1.0]), of_first_host(&mut dice)));
    }
    if dice.chance(0.2) {
        let from = calm_after.mul_f64(0.5 * dice.0.unit());
        hosts[4].shuns = Some((from, from + dice.seconds(3.0, 60.0), dice.chance(0.5)));
    }
    let odd = dice.share(0.15);
    if dice.chance(0.2) {
        hosts[dice.one_of(&[0, 3])].slow = Some(dice.one_of(&Slowness::ALL));
    }
    Habits { seed, shares, odd, hosts }
}

/// What the preferred host of two does for good, so that the mail can only go to the other one.
fn of_first_host(dice: &mut Dice) -> Treatment {
    let stage = dice.one_of(&[Stage::Mail, Stage::Recipient, Stage::Data, Stage::Dot]);
    let deed = dice.one_of(&[
        Deed::Say("451 4.7.1 Never here\r\n"),
        Deed::Say("421 4.3.2 Never here\r\n"),
        Deed::SayAndPart("421 4.3.2 Never here\r\n", Parting::Orderly),
    ]);
    Treatment { stage, after: 0, deed }
}
