//! What the threads do with calls that panic, stall or are given up.

use std::sync::mpsc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::*;

fn store() -> (Arc<Sqlite>, tempfile::TempDir) {
    counted_store(&Metrics::new())
}

fn counted_store(metrics: &Metrics) -> (Arc<Sqlite>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(Sqlite::open(&folder.path().join("test.db"), metrics).unwrap()), folder)
}

#[tokio::test]
async fn a_panic_in_a_call_ends_no_thread_and_is_counted() {
    let metrics = Metrics::new();
    let (store, _folder) = counted_store(&metrics);
    // Without the hook, which takes longer to print a backtrace than a call may take.
    let panic = || std::panic::resume_unwind(Box::new("this test wants it"));
    // More often than there are threads.
    for _ in 0..4 {
        let read = store.read(move |_| -> rusqlite::Result<()> { panic() }).await;
        assert!(matches!(read, Err(Error::Unexpected(_))), "{read:?}");
        let write = store.write(&["a"], 0, move |_, _| -> rusqlite::Result<()> { panic() }).await;
        assert!(matches!(write, Err(Error::Unexpected(_))), "{write:?}");
    }
    let entry = Entry { record: b"one", user_id: None, expires_at: 2 };
    assert!(matches!(store.insert("a", entry, 1).await, Ok(Insertion::Done)));
    assert_eq!(store.find("a", 1).await.unwrap().unwrap().record, b"one");
    let panics = ["sqlite-reader", "sqlite-writer"].map(|thread| metrics.task_restarts(thread).get());
    assert_eq!((panics, metrics.tasks_down.get()), ([4, 4], 0));
}

/// Outside of its call to SQLite, where no error can be answered.
#[tokio::test]
async fn a_reader_that_panics_is_down_and_goes_on() {
    let metrics = Metrics::new();
    let (store, _folder) = counted_store(&metrics);
    for _ in 0..2 * READERS {
        let panic: ReadJob = Box::new(|_, _| std::panic::resume_unwind(Box::new("this test wants it")));
        store.reads.push(panic, 0).unwrap();
    }
    store.read(|_| Ok(())).await.unwrap();
    let (restarts, down) = (metrics.task_restarts("sqlite-reader"), &metrics.tasks_down);
    let until = async |condition: &dyn Fn() -> bool| {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, until(&|| restarts.get() == 4)).await.expect("each panic is counted");
    assert!(down.get() > 0);
    // Without any further call.
    tokio::time::timeout(patience, until(&|| down.get() == 0)).await.expect("the readers are up");
    store.read(|_| Ok(())).await.unwrap();
}

/// Notes what it is told, and panics when it is told of the entry "panic".
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Watcher for Notes {
    fn changed(&self, id: &str) {
        self.0.lock().unwrap().push(id.into());
        if id == "panic" {
            std::panic::resume_unwind(Box::new("this test wants it"));
        }
    }

    fn doubt(&self) {
        self.0.lock().unwrap().push("doubt".into());
    }

    fn current(&self, _: crate::clock::BootInstant) {}

    fn max_staleness(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_watcher_that_panics_is_told_to_doubt() {
    let metrics = Metrics::new();
    let (store, _folder) = counted_store(&metrics);
    let notes = Arc::new(Notes::default());
    store.watch(Arc::clone(&notes) as _);
    // After the first beat, which doubts.
    store.write(&["before"], 0, |_, _| Ok(())).await.unwrap();
    store.write(&["panic"], 0, |_, _| Ok(())).await.unwrap_err();
    store.write(&["after"], 0, |_, _| Ok(())).await.unwrap();
    let told = notes.0.lock().unwrap().clone();
    let [panic, after] = ["panic", "after"].map(|id| told.iter().position(|told| told == id).unwrap());
    assert_eq!(told[panic + 1], "doubt", "{told:?}");
    assert!(after > panic);
    assert_eq!(metrics.task_restarts("sqlite-writer").get(), 1);
}

/// Panics outside of its call to SQLite.
struct Panics;

impl WriteJob for Panics {
    fn frees(&self) -> bool {
        true
    }

    fn is_abandoned(&self) -> bool {
        false
    }

    fn apply(&mut self, _: &Connection, _: &Worker) {
        std::panic::resume_unwind(Box::new("this test wants it"));
    }

    fn answer(self: Box<Self>, _: Result<()>) {}
}

#[tokio::test]
async fn a_writer_that_panics_commits_nothing_and_answers_at_once() {
    let metrics = Metrics::new();
    let (store, _folder) = counted_store(&metrics);
    let notes = Arc::new(Notes::default());
    store.watch(Arc::clone(&notes) as _);
    let stalled = stall_writer(&store).await;
    let entry = Entry { record: b"one", user_id: None, expires_at: 2 };
    let mut insert = store.insert("a", entry, 1);
    assert!((&mut insert).now_or_never().is_none());
    store.writes.push(Box::new(Panics), 0).unwrap();
    notes.0.lock().unwrap().clear();
    drop(stalled);
    let Err(Error::Unexpected(why)) = insert.await else { panic!("it was not committed") };
    assert_eq!(why, "the SQLite writer panicked");
    let told = notes.0.lock().unwrap().clone();
    assert!(told.contains(&"a".into()) && told.contains(&"doubt".into()), "before the answer: {told:?}");
    assert_eq!((metrics.task_restarts("sqlite-writer").get(), metrics.tasks_down.get()), (1, 1));
    assert_eq!(store.find("a", 1).await.unwrap(), None);
    assert!(matches!(store.insert("a", entry, 1).await, Ok(Insertion::Done)));
}

/// Lets the thread that was held up go on when it is dropped.
type Stall = mpsc::Sender<()>;

/// Returns what holds up a thread, and what tells when it is held up.
fn stall() -> (Stall, oneshot::Receiver<()>, impl Fn() + Send) {
    let (go_on, may_go_on) = mpsc::channel();
    let (has_begun, begun) = oneshot::channel();
    let channels = std::sync::Mutex::new(Some((has_begun, may_go_on)));
    let wait = move || {
        let (has_begun, may_go_on) = channels.lock().unwrap().take().unwrap();
        has_begun.send(()).unwrap();
        let _ = may_go_on.recv();
    };
    (go_on, begun, wait)
}

async fn stall_writer(store: &Arc<Sqlite>) -> Stall {
    let ((stall, begun, wait), store) = (stall(), Arc::clone(store));
    let write = move |_: &Connection, _: &[String]| {
        wait();
        Ok(())
    };
    tokio::spawn(async move { store.write(&[], 0, write).await });
    begun.await.unwrap();
    stall
}

async fn stall_reader(store: &Arc<Sqlite>) -> Stall {
    let ((stall, begun, wait), store) = (stall(), Arc::clone(store));
    let read = move |_: &Connection| {
        wait();
        Ok(())
    };
    tokio::spawn(async move { store.read(read).await });
    begun.await.unwrap();
    stall
}

/// Makes `number` calls whose callers leave at once. Returns how many of them were queued.
fn count_queued<T>(number: usize, call: impl Fn(usize) -> BoxFuture<'static, Result<T>>) -> usize {
    let queued = |number| match call(number).now_or_never() {
        None => true,
        Some(Err(Error::Unavailable(why))) if why.contains("waiting") => false,
        Some(Err(error)) => panic!("{error}"),
        Some(Ok(_)) => panic!("the thread is not held up"),
    };
    (0..number).map(queued).filter(|queued| *queued).count()
}

/// A stalled disk must not fill the memory with the records of callers who have gone.
#[tokio::test]
async fn what_waits_for_a_stalled_disk_is_bounded_in_bytes() {
    let (store, _folder) = store();
    let stalled = [stall_writer(&store).await, stall_reader(&store).await, stall_reader(&store).await];
    let replace = |number: usize| {
        let store = Arc::clone(&store);
        let replace = async move {
            let record = vec![b'x'; 1 << 20];
            let entry = Entry { record: &record, user_id: None, expires_at: 2 };
            store.replace(&number.to_string(), &record, entry, 1).await
        };
        replace.boxed()
    };
    assert_eq!(count_queued(100, replace), 31, "2 MiB each, and the id");
    let id = "x".repeat(1 << 10);
    let find_many = |_| {
        let (store, id) = (Arc::clone(&store), id.clone());
        async move { store.find_many(&[id.as_str(); 1 << 10], 1).await }.boxed()
    };
    assert_eq!(count_queued(100, find_many), 63, "1 MiB each, and the syntax of JSON");
    drop(stalled);
    // After them in the queues.
    store.write(&[], 0, |_, _| Ok(())).await.unwrap();
    store.read(|_| Ok(())).await.unwrap();
    let record = vec![b'x'; 1 << 20];
    let inserts = join_all((0..40).map(|number| {
        let (store, record) = (Arc::clone(&store), &record);
        async move { store.insert(&number.to_string(), Entry { record, user_id: None, expires_at: 2 }, 1).await }
    }));
    assert!(inserts.await.iter().all(|inserted| !is_refused(inserted)), "the queue has room again");
}

fn is_refused<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|error| error.to_string().contains("waiting"))
}

#[tokio::test]
async fn what_waits_for_a_stalled_disk_is_bounded_in_number() {
    let (store, _folder) = store();
    let stalled = [stall_writer(&store).await, stall_reader(&store).await, stall_reader(&store).await];
    let remove = |_| {
        let store = Arc::clone(&store);
        async move { store.remove(&["a"], None, 1).await }.boxed()
    };
    let find = |_| {
        let store = Arc::clone(&store);
        async move { store.find("a", 1).await }.boxed()
    };
    assert_eq!(count_queued(65_636, remove), 65_536);
    assert_eq!(count_queued(65_636, find), 65_536);
    drop(stalled);
}

/// The caller was told that it did not work out, so a write is not committed when that is known before the commit.
#[tokio::test]
async fn a_write_whose_caller_has_gone_is_not_committed() {
    let (store, _folder) = store();
    let (has_begun, begun) = oneshot::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let channels = std::sync::Mutex::new(Some((has_begun, may_go_on)));
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let change = move |db: &Connection, _: &[String]| {
                let sql = "insert into sessions (id, record, expires_at) values ('ghost', x'00', 2)";
                let inserted = execute(db, sql, [])?;
                let (has_begun, may_go_on) = channels.lock().unwrap().take().unwrap();
                has_begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok(inserted)
            };
            store.write(&["ghost"], 0, change).await
        }
    });
    begun.await.unwrap();
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    go_on.send(()).unwrap();
    // After it in the queue.
    store.write(&[], 0, |_, _| Ok(())).await.unwrap();
    assert_eq!(store.find("ghost", 1).await.unwrap(), None);
}
