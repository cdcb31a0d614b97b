//! The index protocol of the Redis store (`src/store/redis/index.rs`), explored exhaustively: every interleaving of its
//! steps, each of them one Redis command or script, with crashes after any of them, keys that expire, and clocks that
//! disagree about which entries are overdue.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod model;

use model::{Process, Protocol, World, explore};

/// Explores and returns how many states there were.
fn holds(name: &str, world: World) -> usize {
    match explore(world, Protocol::Current) {
        Ok(states) => states,
        Err(violation) => panic!("{name}: {violation}"),
    }
}

#[test]
fn revoking_a_user_reaches_every_acknowledged_session() {
    let [a, b, c] = [0, 1, 2];
    let sweep = Process::sweep;
    let mut states = 0;
    for (name, acknowledged, processes) in [
        ("issue", vec![], vec![Process::insert(a), sweep()]),
        ("issue twice", vec![], vec![Process::insert(a), Process::insert(b), sweep()]),
        ("issue beside a session", vec![a], vec![Process::insert(b), sweep()]),
        ("regenerate", vec![a], vec![Process::supersede(a, b), sweep()]),
        ("two regenerates", vec![a], vec![Process::supersede(a, b), Process::supersede(a, c), sweep()]),
        ("regenerate twice", vec![a], vec![Process::supersede(a, b), Process::supersede(b, c), sweep()]),
        ("regenerate and touch", vec![a], vec![Process::supersede(a, b), Process::touch(a), sweep()]),
        ("regenerate and touch the new one", vec![a], vec![Process::supersede(a, b), Process::touch(b), sweep()]),
        ("regenerate and revoke", vec![a], vec![Process::supersede(a, b), Process::revoke(a), sweep()]),
        ("regenerate and issue", vec![a], vec![Process::supersede(a, b), Process::insert(c), sweep()]),
        ("two sweeps", vec![a], vec![Process::supersede(a, b), sweep(), sweep()]),
    ] {
        states += holds(name, World::new(&acknowledged, processes));
    }
    assert!(states > 10_000, "only {states} states: is everything explored?");
    eprintln!("{states} states");
}

#[test]
fn others_who_read_and_correct_the_index_do_no_harm() {
    let [a, b] = [0, 1];
    let mut states = 0;
    for (name, acknowledged, processes) in [
        ("issue beside a listing", vec![], vec![Process::insert(a), Process::list(), Process::sweep()]),
        ("issue beside a tidying", vec![], vec![Process::insert(a), Process::tidy(), Process::sweep()]),
        ("regenerate beside a listing", vec![a], vec![Process::supersede(a, b), Process::list(), Process::sweep()]),
        ("regenerate beside a tidying", vec![a], vec![Process::supersede(a, b), Process::tidy(), Process::sweep()]),
        ("touch beside a tidying", vec![a], vec![Process::touch(a), Process::tidy(), Process::revoke(a)]),
    ] {
        states += holds(name, World::new(&acknowledged, processes));
    }
    eprintln!("{states} states");
}

/// The explorer is worth something: it finds the defect of version 0.1.
#[test]
fn removing_an_entry_whatever_its_score_is_found_out() {
    let [a, b] = [0, 1];
    for (name, acknowledged, processes) in [
        ("issue", vec![], vec![Process::insert(a), Process::sweep()]),
        ("issue beside a listing", vec![], vec![Process::insert(a), Process::list()]),
        ("regenerate", vec![a], vec![Process::supersede(a, b), Process::sweep()]),
    ] {
        let found = explore(World::new(&acknowledged, processes), Protocol::BlindRemoval);
        assert!(found.is_err(), "{name}: the defect was not found");
    }
}

#[test]
fn a_confirmation_that_is_not_asked_for_is_found_out() {
    let [a, b] = [0, 1];
    let found =
        explore(World::new(&[a], vec![Process::supersede(a, b), Process::sweep()]), Protocol::BlindConfirmation);
    assert!(found.is_err(), "the defect was not found");
}

#[test]
fn a_pending_entry_that_is_not_read_again_is_found_out() {
    let [a, b, c] = [0, 1, 2];
    let processes = vec![Process::supersede(a, b), Process::supersede(b, c), Process::sweep()];
    assert!(explore(World::new(&[a], processes), Protocol::TrustsPending).is_err(), "the defect was not found");
}

#[test]
fn a_sweep_that_is_not_repeated_is_found_out() {
    let [a, b] = [0, 1];
    let found = explore(World::new(&[a], vec![Process::supersede(a, b), Process::sweep()]), Protocol::SingleSweep);
    assert!(found.is_err(), "the defect was not found");
}
