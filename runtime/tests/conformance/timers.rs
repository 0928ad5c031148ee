//! Clocks, sleeping and time limits.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, now, rng, sleep, sleep_until, spawn, timeout, timeout_at, wall_clock};

use crate::on_every_engine;

on_every_engine!(timers_fire_in_order, limits, many_timers, clocks_move_together);

/// Sleeping tasks wake in the order of their deadlines, none early.
async fn timers_fire_in_order() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let start = now();
    let tasks: Vec<_> = [30u64, 10, 20, 0, 40]
        .into_iter()
        .map(|millis| {
            let order = order.clone();
            spawn(async move {
                sleep_until(start + Duration::from_millis(millis)).await;
                assert!(now() >= start + Duration::from_millis(millis));
                order.borrow_mut().push(millis);
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
    assert_eq!(*order.borrow(), [0, 10, 20, 30, 40]);
}

/// A limit ends what takes longer, and nothing else.
async fn limits() {
    assert!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
    assert_eq!(timeout(Duration::from_secs(60), async { 5 }).await, Ok(5));
    assert_eq!(timeout(Duration::ZERO, async { 5 }).await, Ok(5), "what is done is not ended");
    let past = Instant::from_nanos(1);
    assert!(timeout_at(past, std::future::pending::<()>()).await.is_err());
    sleep_until(past).await;
}

/// A thousand timers, some of them dropped before their time, none early.
async fn many_timers() {
    let start = now();
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let wait = Duration::from_micros(rng().below(30_000));
            spawn(async move {
                if rng().below(4) == 0 {
                    let _either = timeout(wait / 2, sleep(wait)).await;
                } else {
                    sleep(wait).await;
                    assert!(now() >= start + wait);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

/// The clocks do not stand still while somebody sleeps.
async fn clocks_move_together() {
    let (start, wall) = (now(), wall_clock());
    sleep(Duration::from_millis(20)).await;
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(wall_clock() - wall >= Duration::from_millis(19));
    assert!(wall_clock() > Duration::from_secs(1_700_000_000));
}
