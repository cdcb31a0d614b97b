//! Every interleaving of a fill with the changes that may overtake it, on the near-cache's own lock (loom).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../src/cache/generations.rs"]
mod generations;

/// What `generations.rs` locks with here.
mod sync {
    pub(super) use loom::sync::Mutex;
}

use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use generations::Generations;

const OLD: u8 = 1;
const NEW: u8 = 2;

/// A store of one entry, and what is kept of it.
struct World {
    store: AtomicU8,
    kept: Mutex<Option<u8>>,
    generations: Generations,
    fresh: AtomicBool,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: AtomicU8::new(OLD),
            kept: Mutex::new(None),
            generations: Generations::new(1),
            fresh: AtomicBool::new(false),
        })
    }

    /// As `Ticket` does it.
    fn read_and_fill(&self) {
        let sampled = self.generations.sample("a");
        let read = self.store.load(Ordering::SeqCst);
        self.generations.fill("a", sampled, || *self.kept.lock().unwrap() = Some(read));
    }

    /// As `Cache::changed` does it.
    fn forget(&self) {
        self.generations.change("a", || *self.kept.lock().unwrap() = None);
    }

    /// As `Cache::doubt` does it.
    fn forget_all(&self) {
        self.generations.change_all();
        *self.kept.lock().unwrap() = None;
    }

    fn kept(&self) -> Option<u8> {
        *self.kept.lock().unwrap()
    }
}

#[test]
fn a_fill_that_a_change_overtakes_is_refused() {
    loom::model(|| {
        let world = World::new();
        let filling = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read_and_fill())
        };
        world.store.store(NEW, Ordering::SeqCst);
        world.forget();
        // The change is acknowledged: whatever is kept from here on is the new state.
        assert_ne!(world.kept(), Some(OLD));
        filling.join().unwrap();
        assert_ne!(world.kept(), Some(OLD));
    });
}

#[test]
fn of_two_fills_that_a_change_overtakes_neither_stays() {
    loom::model(|| {
        let world = World::new();
        let filling: Vec<_> = (0..2)
            .map(|_| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.read_and_fill())
            })
            .collect();
        world.store.store(NEW, Ordering::SeqCst);
        world.forget();
        filling.into_iter().for_each(|filling| filling.join().unwrap());
        assert_ne!(world.kept(), Some(OLD));
    });
}

/// A change that nobody tells of, because no connection tracks: once one does, everything is forgotten before anything is
/// given out.
#[test]
fn what_was_read_while_nobody_tracked_is_not_given_out() {
    loom::model(|| {
        let world = World::new();
        let filling = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read_and_fill())
        };
        let reading = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.fresh.load(Ordering::SeqCst) {
                    assert_ne!(world.kept(), Some(OLD));
                }
            })
        };
        world.store.store(NEW, Ordering::SeqCst);
        world.forget_all();
        world.fresh.store(true, Ordering::SeqCst);
        filling.join().unwrap();
        reading.join().unwrap();
        assert_ne!(world.kept(), Some(OLD));
    });
}

/// That these models can fail: the same without the look at the generation.
#[test]
#[should_panic(expected = "left != right")]
fn a_fill_that_does_not_look_is_found() {
    loom::model(|| {
        let world = World::new();
        let filling = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let read = world.store.load(Ordering::SeqCst);
                *world.kept.lock().unwrap() = Some(read);
            })
        };
        world.store.store(NEW, Ordering::SeqCst);
        world.forget();
        filling.join().unwrap();
        assert_ne!(world.kept(), Some(OLD));
    });
}
