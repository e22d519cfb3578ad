//! SIGKILL at every file system call of one incident's life: from the making of the database through the outage, its
//! alert, its acknowledgement and its end to the polite stop.
//!
//! strace counts the calls of each thread and kills at the n-th. The calls on the database come from one thread, the
//! store's; they are counted alone, so that each of them is reached. Those of the other threads (the configuration, the
//! log, the socket) are counted in a second round.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::life::Site;

/// The calls by which a file is made, read, changed, secured and removed.
const CALLS: &str = "openat,pread64,pwrite64,write,fsync,fdatasync,ftruncate,fallocate,rename,unlink";

/// Lives at one time: most of the time they wait.
const AT_ONCE: usize = 5;

/// Of so many points, one is gone on from by a real daemon.
const GO_ON_EVERY: usize = 12;

/// Points of the second round: as many calls as the first thread makes before the database is opened.
const OTHERS_MAX: usize = 40;

/// More calls than a life has.
const POINTS_MAX: usize = 5_000;

/// What strace is called with.
fn strace(site: &Site, of_database: bool, point: usize) -> Vec<String> {
    let mut words: Vec<String> = ["strace", "-f", "-o", "/dev/null"].map(Into::into).to_vec();
    if of_database {
        let database = site.database().display().to_string();
        let files =
            [database.clone(), format!("{database}-wal"), format!("{database}-journal"), format!("{database}-shm")];
        let more = [format!("{database}.lock"), site.place.dir.path().display().to_string()];
        words.extend(files.into_iter().chain(more).flat_map(|file| ["-P".to_owned(), file]));
    }
    words.extend(["-e".into(), format!("trace={CALLS}")]);
    words.extend(["-e".into(), format!("inject={CALLS}:signal=KILL:when={point}")]);
    words
}

/// Kills at one point and looks at what is left; whether there was such a point.
fn kill_at(of_database: bool, point: usize) -> bool {
    let site = Site::new();
    let lived = site.live(&strace(&site, of_database, point));
    let what = if of_database { "call on the database" } else { "call of any thread" };
    let at = format!("{what} {point}");
    site.verify(&lived, &at);
    if point.is_multiple_of(GO_ON_EVERY) || lived.ended {
        site.go_on(&at);
    }
    !lived.ended
}

/// Kills at one point after the other until a life comes to its own end; how many points there were.
fn kill_at_each(of_database: bool, most: usize) -> usize {
    let (next, end) = (AtomicUsize::new(1), AtomicUsize::new(most + 1));
    let failed: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let point = next.fetch_add(1, Ordering::SeqCst);
                    if point >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    match std::panic::catch_unwind(|| kill_at(of_database, point)) {
                        Ok(true) => {}
                        Ok(false) => {
                            end.fetch_min(point, Ordering::SeqCst);
                        }
                        Err(_) => failed.lock().expect("no panic holds it").push(format!("point {point}")),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic holds it");
    assert!(failed.is_empty(), "{failed:?}");
    end.load(Ordering::SeqCst) - 1
}

#[test]
fn a_kill_at_any_call_on_the_database_loses_nothing() {
    let points = kill_at_each(true, POINTS_MAX);
    println!("{points} calls on the database, killed at each");
    assert!((100..POINTS_MAX).contains(&points), "{points} calls: were they counted?");
}

#[test]
fn a_kill_at_any_other_call_loses_nothing() {
    let points = kill_at_each(false, OTHERS_MAX);
    println!("{points} calls of any thread, killed at each");
    assert_eq!(points, OTHERS_MAX, "a life has more calls");
}
