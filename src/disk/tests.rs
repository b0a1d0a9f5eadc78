//! The writer and the thread beside it on real files, full disks included.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shards::contract::{CoreConfig, Durability, ReadMode, STUB_BYTES_MIN};
use shards::ids::{CoreIndex, Millis, Nanos, NodeId};
use shards::placement::Placement;
use shards::wal::LogIdentity;

use super::data_directory::DataDirectory;
use super::file::SegmentFile;
use super::provisioner::FileCounts;
use super::recovery::{RecoveryError, cluster_identity, recover};
use super::segments::{self, SegmentFiles};
use super::writer::{LogWrite, LogWriter};
use crate::net::runtime::{ExecutorSettings, start_executor};

const BYTES: u64 = 64 << 10;
const BLOCK: u64 = shards::wal::BLOCK_BYTES as u64;
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `main` on an executor of its own, with a writer over `directory`.
fn with_writer<T: Send + 'static>(
    directory: &Path,
    main: impl AsyncFnOnce(LogWriter) -> T + Send + 'static,
) -> T {
    let directory = directory.to_owned();
    let settings = ExecutorSettings { name: "disk-test".into(), cpu: None, spin: Duration::ZERO };
    let executor = start_executor(&settings, move || async move {
        let writer = LogWriter::start(CoreIndex(0), &directory, BYTES).expect("a writer");
        main(writer).await
    });
    executor.expect("an executor").join().expect("it ends")
}

fn block(segment: u64, offset: u64, bytes: &[u8]) -> LogWrite<'_> {
    LogWrite { segment, segment_bytes: BYTES, offset, bytes }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    let listed = segments::list(directory).expect("a list");
    let found = listed.into_iter().find(|segment| segment.number == number);
    found.expect("the segment is there").path
}

fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn what_was_written_is_in_the_file_of_its_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    with_writer(directory.path(), async |mut writer| {
        for segment in 1..=9_u64 {
            for place in 0..BYTES / BLOCK {
                let bytes = vec![(segment * 16 + place) as u8; BLOCK as usize];
                writer.write(block(segment, place * BLOCK, &bytes)).await.expect("a write");
            }
            writer.release(segment.saturating_sub(2));
        }
    });
    for segment in 7..=9_u64 {
        let content = fs::read(path(directory.path(), segment)).expect("the segment");
        for (place, bytes) in content.chunks(BLOCK as usize).enumerate() {
            let expected = (segment * 16) as u8 + place as u8;
            assert!(bytes.iter().all(|&byte| byte == expected), "segment {segment} at {place}");
        }
    }
    let left = segments::list(directory.path()).expect("a list");
    let numbers: Vec<u64> = left.iter().map(|segment| segment.number).collect();
    assert_eq!(numbers, [7, 8, 9, 10], "the released are gone, and the next one is ready");
}

#[test]
fn a_write_longer_than_a_piece_or_a_segment_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|at| (at / 4_096) as u8).collect();
    let expected = bytes.clone();
    with_writer(directory.path(), async move |mut writer| {
        let segment_bytes = bytes.len() as u64 + BLOCK;
        let long = LogWrite { segment: 2, segment_bytes, offset: BLOCK, bytes: &bytes };
        writer.write(block(1, 0, &bytes[..BLOCK as usize])).await.expect("a write");
        writer.write(long).await.expect("a long write");
        writer.write(block(3, 0, &bytes[..BLOCK as usize])).await.expect("a write");
    });
    let content = fs::read(path(directory.path(), 2)).expect("the segment");
    assert_eq!(content.len() as u64, expected.len() as u64 + BLOCK);
    assert!(content[BLOCK as usize..] == expected[..]);
    let third = fs::metadata(path(directory.path(), 3)).expect("the segment");
    assert_eq!(third.len(), BYTES);
}

#[test]
fn a_writer_goes_on_in_a_directory_that_another_has_left() {
    let directory = tempfile::tempdir().expect("a directory");
    for life in 0..3_u64 {
        with_writer(directory.path(), async move |mut writer| {
            let bytes = vec![life as u8 + 1; BLOCK as usize];
            writer.write(block(life + 1, 0, &bytes)).await.expect("a write");
        });
    }
    for life in 0..3_u64 {
        let content = fs::read(path(directory.path(), life + 1)).expect("the segment");
        assert_eq!(content[0], life as u8 + 1);
    }
}

#[test]
fn a_failed_write_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let home = directory.path().to_owned();
    with_writer(directory.path(), async move |mut writer| {
        let bytes = vec![1; BLOCK as usize];
        writer.write(block(1, 0, &bytes)).await.expect("a write");
        // The kernel refuses to write to a file that is open for reading only.
        let file = SegmentFile::open_read_only(&path(&home, 1)).await.expect("the file");
        writer.replace_current(1, file).await;
        writer.write(block(1, BLOCK, &bytes)).await.expect_err("it cannot be written");
        // Nor does a write past what the segment was made for pass for a success.
        let file = SegmentFile::open(&path(&home, 1)).await.expect("the file");
        file.write(1, &bytes).await.expect_err("direct writes begin at blocks");
        file.close().await;
    });
}

#[test]
fn a_directory_that_vanished_is_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    with_writer(&path, async move |mut writer| {
        directory.close().expect("an empty directory");
        let bytes = vec![1; BLOCK as usize];
        writer.write(block(1, 0, &bytes)).await.expect_err("nowhere to write");
    });
}

/// Mounts a small file system over `path` that only this thread and those it starts can see.
fn mount_small(path: &Path, bytes: u64) -> std::io::Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(std::io::Error::other);
    let check = |result: i32| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let (root, none, kind) = (text(b"/")?, text(b"none")?, text(b"tmpfs")?);
    let (path, size) =
        (text(path.as_os_str().as_bytes())?, text(format!("size={bytes}").as_bytes())?);
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the flag concerns this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let nothing = std::ptr::null();
    // SAFETY: all pointers are strings that outlive the call, or null where that is allowed.
    check(unsafe { libc::mount(none.as_ptr(), root.as_ptr(), nothing, private, nothing.cast()) })?;
    let size = size.as_ptr().cast();
    // SAFETY: as above.
    check(unsafe { libc::mount(none.as_ptr(), path.as_ptr(), kind.as_ptr(), 0, size) })
}

#[test]
fn a_full_disk_makes_writes_wait_until_there_is_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let test = std::thread::spawn(move || {
        if let Err(error) = mount_small(directory.path(), 8 * BYTES) {
            eprintln!("skipped: this process may not mount a file system: {error}");
            return;
        }
        let ballast = directory.path().join("ballast");
        let at = ballast.clone();
        let (tell, told) = flume::bounded::<Arc<FileCounts>>(1);
        let operator = std::thread::spawn(move || {
            let counts = told.recv_timeout(DEADLINE).expect("the writer starts");
            wait_for("the disk is full", || counts.is_full.load(Ordering::Relaxed));
            fs::remove_file(&at).expect("the ballast");
            wait_for("there is room", || !counts.is_full.load(Ordering::Relaxed));
        });
        with_writer(directory.path(), async move |mut writer| {
            let bytes = vec![7; BLOCK as usize];
            writer.write(block(1, 0, &bytes)).await.expect("a write");
            // Room for the segment after the first, which may be under way, and no other.
            fs::write(&ballast, vec![0; 5 * BYTES as usize]).expect("there is room for it");
            tell.send(writer.counts()).expect("somebody waits");
            for segment in 2..=6 {
                writer.write(block(segment, 0, &bytes)).await.expect("it waits for room");
            }
        });
        operator.join().expect("the operator");
        for segment in 1..=6 {
            let content = fs::read(path(directory.path(), segment)).expect("a segment");
            assert_eq!(content[0], 7, "segment {segment}");
        }
    });
    test.join().expect("the test");
}

fn engine(cores: u16, shards: u16) -> CoreConfig {
    let node = NodeId(1);
    let cluster = cluster_identity("test", &[node], shards);
    CoreConfig {
        node,
        core: CoreIndex(0),
        cores,
        placement: Placement::new(vec![node], shards).expect("a placement"),
        shard_bytes_max: 1 << 20,
        eviction: shards::ids::Eviction::Lru,
        value_bytes_max: 1 << 10,
        durability: Durability::Fsync,
        reads: ReadMode::Lease,
        log: LogIdentity { cluster, node, layout: 0, core: CoreIndex(0) },
        segment_bytes: BYTES,
        tick: Nanos(50_000_000),
        election_ticks: 6,
        request_deadline: Nanos(2_000_000_000),
        touch_interval: Millis(5_000),
        stub_bytes_min: STUB_BYTES_MIN,
        scrub_bytes_per_second: 8 << 20,
        parked_bytes_max: 1 << 20,
        seed: 1,
    }
}

/// A data directory in which each core's log has been begun, by moving there from another number
/// of cores.
fn begun_logs(path: &Path, cores: u16) -> DataDirectory {
    let data = DataDirectory::open(path).expect("a writable directory");
    recover(&data, &engine(cores + 1, 4)).expect("an empty log");
    let logs = recover(&data, &engine(cores, 4)).expect("a moved log");
    assert_eq!(logs.cores.len(), usize::from(cores));
    data
}

#[test]
fn logs_move_to_as_many_cores_as_there_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = begun_logs(directory.path(), 2);
    for (core, layout) in [(0, 2), (1, 2)] {
        let home = directory.path().join(format!("logs-{layout}/core-{core}"));
        assert_eq!(segments::list(&home).expect("a list").len(), 1, "core {core}");
    }
    assert!(!directory.path().join("logs-1").exists());
    let again = recover(&data, &engine(2, 4)).expect("the same log");
    assert!(again.cores.iter().all(|core| core.identity.layout == 2));
}

#[test]
fn a_log_that_was_cut_short_is_set_aside_and_its_core_starts_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = begun_logs(directory.path(), 2);
    let home = directory.path().join("logs-2/core-1");
    let file = fs::File::options().write(true).open(path(&home, 1)).expect("a segment");
    file.set_len(BYTES / 2).expect("a cut");
    let logs = recover(&data, &engine(2, 4)).expect("the other core's log");
    assert_eq!(logs.cores.len(), 2);
    assert!(directory.path().join("damaged-2-1-1").is_dir());
    assert!(!directory.path().join("damaged-2-0-1").exists());
    assert!(segments::list(&home).expect("a list").is_empty());
}

#[test]
fn the_logs_of_another_cluster_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = begun_logs(directory.path(), 1);
    let error = recover(&data, &engine(1, 5)).expect_err("another number of shards");
    assert!(matches!(error, RecoveryError::Foreign { .. }), "{error}");
    let line = error.to_string();
    assert!(line.contains("--data-dir") && !line.contains('\n'), "{line}");
    recover(&data, &engine(1, 4)).expect("the log is as it was");
}

#[test]
fn a_log_is_not_read_while_a_write_of_a_killed_process_is_under_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = begun_logs(directory.path(), 1);
    let home = directory.path().join("logs-2/core-0");
    let file = fs::File::options().write(true).open(path(&home, 1)).expect("a segment");
    file.lock().expect("nobody else has it");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            recover(&data, &engine(1, 4)).expect("the log");
            assert!(is_done.load(Ordering::SeqCst), "the log was read during the write");
        });
        // Long enough for a reader that does not wait.
        for _ in 0..100 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        is_done.store(true, Ordering::SeqCst);
        drop(file);
        reader.join().expect("it waits and reads");
    });
}

#[test]
fn a_segment_that_is_being_written_is_locked() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = SegmentFiles::open(directory.path(), BYTES).expect("a directory");
    files.provide(1, BYTES).expect("room");
    let home = directory.path().to_owned();
    with_writer(directory.path(), async move |mut writer| {
        let bytes = vec![1; BLOCK as usize];
        writer.write(block(1, 0, &bytes)).await.expect("a write");
        let file = fs::File::open(path(&home, 1)).expect("the segment");
        file.try_lock_shared().expect_err("it is locked");
        writer.write(block(2, 0, &bytes)).await.expect("a write");
        file.try_lock_shared().expect("it is written no more");
    });
}
