//! Random histories of calls, told apart from a model of the contract in a few lines.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sessiond::clock::Clock;
use sessiond::store::{Entry, Insertion, Outcome};

use super::Fixture;

const HISTORIES: usize = 60;
const IDS: [&str; 3] = ["a", "b", "c"];
const USERS: [Option<&str>; 3] = [None, Some("u"), Some("v")];

#[derive(Debug, Clone)]
enum Call {
    Insert { id: usize, user: usize, record: u8 },
    Replace { id: usize, expected: u8, record: u8 },
    Touch { id: usize, expected: u8 },
    Remove { id: usize, expected: Option<u8>, knows_user: bool },
    List { user: usize },
}

fn call() -> impl Strategy<Value = Call> {
    // Few values, so that calls meet.
    let (id, user, record) = (0..IDS.len(), 0..USERS.len(), 0_u8..2);
    prop_oneof![
        3 => (id.clone(), user, record.clone()).prop_map(|(id, user, record)| Call::Insert { id, user, record }),
        3 => (id.clone(), record.clone(), record.clone()).prop_map(|(id, expected, record)| Call::Replace { id, expected, record }),
        2 => (id.clone(), record.clone()).prop_map(|(id, expected)| Call::Touch { id, expected }),
        2 => (id, prop::option::of(record), any::<bool>()).prop_map(|(id, expected, knows_user)| Call::Remove { id, expected, knows_user }),
        1 => (1..USERS.len()).prop_map(|user| Call::List { user }),
    ]
}

/// Whose an entry is, and its record.
type Model = BTreeMap<usize, (usize, u8)>;

/// What a write to `id` does that expects `expected`.
fn outcome(model: &Model, id: usize, expected: Option<u8>) -> Outcome {
    match model.get(&id) {
        None => Outcome::Missing,
        Some((_, record)) if expected.is_some_and(|expected| expected != *record) => Outcome::Changed,
        Some(_) => Outcome::Applied,
    }
}

pub(crate) async fn a_random_history_is_the_models(fixture: &Fixture) {
    let mut runner = TestRunner::deterministic();
    for history in 0..HISTORIES {
        let calls = prop::collection::vec(call(), 1..40).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        // No id is used again after its entry is gone; ids and users of one history are its own.
        let lives = RefCell::new([0; IDS.len()]);
        let id = |id: usize| format!("{history}-{}-{}", IDS[id], lives.borrow()[id]);
        let user = |user: usize| USERS[user].map(|user| format!("{history}-{user}"));
        for (step, call) in calls.iter().enumerate() {
            // Either process.
            let store = fixture.stores[step % 2].as_ref();
            let now = Clock::system().now();
            let bytes = |record: &u8| [*record];
            let mut gone = None;
            let told = format!("history {history}, step {step} of {calls:?}");
            match call {
                Call::Insert { id: at, user: whose, record } => {
                    let (record_bytes, user_id) = (bytes(record), user(*whose));
                    let entry = Entry { record: &record_bytes, user_id: user_id.as_deref(), expires_at: now + 60_000 };
                    let inserted = store.insert(&id(*at), entry, now).await.unwrap();
                    let expected = if model.contains_key(at) { Insertion::Refused } else { Insertion::Done };
                    assert_eq!(inserted, expected, "{told}");
                    if inserted == Insertion::Done {
                        model.insert(*at, (*whose, *record));
                    }
                }
                Call::Replace { id: at, expected, record } => {
                    let user_id = model.get(at).and_then(|(whose, _)| user(*whose));
                    let record_bytes = bytes(record);
                    let entry = Entry { record: &record_bytes, user_id: user_id.as_deref(), expires_at: now + 60_000 };
                    let replaced = store.replace(&id(*at), &bytes(expected), entry, now).await.unwrap();
                    assert_eq!(replaced, outcome(&model, *at, Some(*expected)), "{told}");
                    if replaced == Outcome::Applied {
                        model.entry(*at).and_modify(|(_, stored)| *stored = *record);
                    }
                }
                Call::Touch { id: at, expected } => {
                    let user_id = model.get(at).and_then(|(whose, _)| user(*whose));
                    let record_bytes = bytes(expected);
                    let entry = Entry { record: &record_bytes, user_id: user_id.as_deref(), expires_at: now + 60_000 };
                    let touched = store.touch(&id(*at), &bytes(expected), entry, now).await.unwrap();
                    assert_eq!(touched, outcome(&model, *at, Some(*expected)), "{told}");
                }
                Call::Remove { id: at, expected, knows_user } => {
                    let user_id = model.get(at).filter(|_| *knows_user).and_then(|(whose, _)| user(*whose));
                    let id = id(*at);
                    let removed = match expected {
                        Some(expected) => {
                            store.remove_if(&id, &bytes(expected), user_id.as_deref(), now).await.unwrap()
                        }
                        None => match store.remove(&[id.as_str()], user_id.as_deref(), now).await.unwrap() {
                            0 => Outcome::Missing,
                            _ => Outcome::Applied,
                        },
                    };
                    assert_eq!(removed, outcome(&model, *at, *expected), "{told}");
                    if removed == Outcome::Applied {
                        model.remove(at);
                        gone = Some(*at);
                    }
                }
                Call::List { user: whose } => {
                    let user_id = user(*whose).unwrap();
                    let mut page = store.list_by_user(&user_id, None, 10, now).await.unwrap();
                    while page.vanished > 0 {
                        page = store.list_by_user(&user_id, None, 10, now).await.unwrap();
                    }
                    let mut listed: Vec<String> = page.rows.into_iter().map(|row| row.id).collect();
                    listed.sort();
                    let expected: Vec<String> =
                        model.iter().filter(|(_, entry)| entry.0 == *whose).map(|(at, _)| id(*at)).collect();
                    assert_eq!(listed, expected, "{told}");
                }
            }
            for at in 0..IDS.len() {
                let found = store.find(&id(at), now).await.unwrap().map(|found| found.record[0]);
                assert_eq!(found, model.get(&at).map(|(_, record)| *record), "{told}");
            }
            if let Some(at) = gone {
                lives.borrow_mut()[at] += 1;
            }
        }
    }
}
