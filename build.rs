//! How the binary is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    // The addresses a position-independent binary must mend at its start, in a fortieth of the room: else more than a
    // megabyte of them stays mapped for as long as the daemon runs. Understood by glibc from 2.36 on.
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
