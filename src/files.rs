//! Plain files, read whole and up to a bound.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// Reads a plain file of at most so many bytes.
///
/// # Errors
/// When it cannot be read, is longer, or is no plain file: opening a pipe would wait for its writer, and a device may
/// have no end.
pub fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    let mut bytes = Vec::new();
    // What it says of its length may have changed, and of files in /proc says nothing.
    fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        let text = format!("it is longer than the {} KiB allowed", bytes_max / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_within_the_bound_are_read() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("file");
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("coreutils are there").success());
        fs::write(&path, [7; 2_048]).expect("own directory");
        assert_eq!(read(&path, 2_048).expect("as long as allowed").len(), 2_048);
        let table = [
            (&*path, 2_047, "it is longer than the 1 KiB allowed"),
            (&pipe, 2_048, "it is not a plain file"),
            (dir.path(), 2_048, "it is not a plain file"),
            (Path::new("/dev/zero"), 2_048, "it is not a plain file"),
        ];
        for (path, bytes_max, told) in table {
            assert_eq!(read(path, bytes_max).expect_err("no such file").to_string(), told, "{}", path.display());
        }
        let gone = read(&dir.path().join("gone"), 1).expect_err("there is none");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        // A file of no length that has something to say.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).expect("there on Linux").is_empty());
    }
}
