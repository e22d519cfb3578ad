//! The drop folder: each mail becomes a file, for a machine without a mail server, for tests and for the demo.
//!
//! A file appears whole or not at all: it is written under a temporary name, brought to the disk, and renamed. Its
//! name is made from the message alone, so a repeated attempt replaces the same file.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{fs, io::AsyncWriteExt};

use crate::{alert::Message, value::Timestamp};

/// Longest part of a file's name made from a key, in bytes: with the rest it stays below the 255 of file systems.
const KEY_BYTES_MAX: usize = 120;

/// Writes a mail; the folder is made if it is not there.
///
/// # Errors
/// When the folder cannot be made or written, or the disk is full.
pub async fn write(folder: &Path, message: &Message, mail: &[u8]) -> io::Result<PathBuf> {
    let name = file_name(message);
    let target = folder.join(&name);
    let temporary = folder.join(format!(".{name}.part"));
    fs::create_dir_all(folder).await?;
    let written = async {
        let mut file = fs::File::create(&temporary).await?;
        file.write_all(mail).await?;
        file.sync_all().await?;
        fs::rename(&temporary, &target).await?;
        // The rename itself lives in the folder.
        fs::File::open(folder).await?.sync_all().await
    };
    if let Err(error) = written.await {
        let _ = fs::remove_file(&temporary).await;
        return Err(error);
    }
    Ok(target)
}

/// `20261122T145317.000Z-problem-seoul-1.12.ops.0.eml`: sorted by time, told apart at a glance.
pub fn file_name(message: &Message) -> String {
    let time: Timestamp = message.created_at;
    let time = time.to_utc().format("%Y%m%dT%H%M%S%.3fZ");
    format!("{time}-{}-{}.eml", message.alert.kind.as_str(), key_part(&message.key))
}

/// A key as part of a file's name. One that had to be changed gets a digest of the whole, so that two keys never
/// share a file.
fn key_part(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !key.is_empty() && key.len() <= KEY_BYTES_MAX && key.chars().all(plain) {
        return key.into();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let digest: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let readable: String = key.chars().map(|c| if plain(c) { c } else { '_' }).take(KEY_BYTES_MAX - 20).collect();
    format!("{readable}-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::MessageKind,
        notify::{testing, text::tests::alert},
    };

    #[tokio::test]
    async fn a_repeat_under_the_same_key_replaces_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("a/b");
        let mut message = testing::message(alert(MessageKind::Problem));
        let first = write(&folder, &message, b"one").await.expect("written");
        let second = write(&folder, &message, b"two").await.expect("written");
        assert_eq!(first, second);
        assert_eq!(
            first.file_name().and_then(|n| n.to_str()),
            Some("20261122T145317.000Z-problem-seoul-1.12.ops.0.eml")
        );
        assert_eq!(std::fs::read(&second).expect("there"), b"two");
        message.key = "another".into();
        write(&folder, &message, b"three").await.expect("written");
        assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 2, "and no temporary file is left");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("own directory");
        let message = testing::message(alert(MessageKind::Problem));
        assert!(write(&file.join("below"), &message, b"x").await.is_err());
    }

    #[test]
    fn no_key_leaves_the_folder_or_meets_another() {
        let part = |key: &str| key_part(key);
        for key in ["../../etc/passwd", "a/b", "봉수", "", &"x".repeat(5_000), "a\0b", "a b"] {
            let name = part(key);
            assert!(!name.contains(['/', '\0']) && name.len() <= KEY_BYTES_MAX && !name.is_empty(), "{name}");
        }
        assert_ne!(part("a/b"), part("a_b"));
        assert_ne!(part("a/b"), part("a:b"));
        assert_eq!(part("seoul-1.12.ops.0"), "seoul-1.12.ops.0");
    }
}
