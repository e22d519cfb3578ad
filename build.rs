//! How the binary is linked.

use std::{env, process::Command};

/// The first glibc whose dynamic linker reads relative relocations that are packed.
const PACKED_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The addresses a position-independent binary must mend at its start, in a fortieth of the room: else more than a
    // megabyte of them stays mapped for as long as the daemon runs.
    if glibc().is_some_and(|version| version >= PACKED_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of glibc here, if the binary is for a machine such as this one.
fn glibc() -> Option<(u32, u32)> {
    let is_set = |name: &str, value: &str| env::var(name).is_ok_and(|set| set == value);
    let is_native = env::var("HOST").ok()? == env::var("TARGET").ok()?;
    if !is_native || !is_set("CARGO_CFG_TARGET_OS", "linux") || !is_set("CARGO_CFG_TARGET_ENV", "gnu") {
        return None;
    }
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, rest) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = rest.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
