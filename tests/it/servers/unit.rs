//! The unit, installed into a root directory by the commands of `systemd/README.md`, as systemd's own tools see it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Output},
};

use crate::harness::{daemon::BONGSU, scratch};

/// Highest exposure that `systemd-analyze security` may give, in tenths.
const EXPOSURE_MAX: &str = "12";

/// Most lines of the instructions.
const LINES_MAX: usize = 5;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The commands of the instructions.
fn instructions() -> String {
    let text = fs::read_to_string("systemd/README.md").expect("own repository");
    let block = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of commands");
    assert!(block.lines().count() <= LINES_MAX, "installation is to be told in {LINES_MAX} lines");
    block.to_owned()
}

#[test]
fn the_unit_is_installed_by_its_instructions_and_verified() {
    let dir = scratch();
    let root = dir.path();
    // What any system has: its own units.
    fs::create_dir_all(root.join("usr/lib/systemd")).expect("own directory");
    let copied = Command::new("cp").args(["-r", "/usr/lib/systemd/system"]).arg(root.join("usr/lib/systemd/")).status();
    assert!(copied.expect("cp exists").success());
    let commands = instructions();
    assert!(commands.contains("target/release/bongsu"), "the binary is installed from where it was built");
    // It is built already, and this is root.
    let script =
        format!("cargo() {{ :; }}; sudo() {{ \"$@\"; }}\n{}", commands.replace("target/release/bongsu", BONGSU));
    let installed = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).env("DESTDIR", root).output();
    let installed = installed.expect("bash exists");
    assert!(installed.status.success(), "{}", said(&installed));

    let path = format!("--root={}", root.display());
    let verified = Command::new("systemd-analyze").args(["verify", &path, "bongsu.service"]).output();
    let verified = verified.expect("the Debian package systemd is there");
    assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));

    let passwd = fs::read_to_string(root.join("etc/passwd")).expect("sysusers wrote it");
    let line = passwd.lines().find(|line| line.starts_with("bongsu:")).expect("a user bongsu");
    let group: u32 = line.split(':').nth(3).and_then(|id| id.parse().ok()).expect("a group's number");
    for (path, mode, owner) in [("etc/bongsu", 0o750, (0, group)), ("etc/bongsu/secrets", 0o700, (0, 0))] {
        let metadata = fs::metadata(root.join(path)).expect("tmpfiles made it");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
        assert_eq!((metadata.uid(), metadata.gid()), owner, "{path}");
    }
    let validated =
        Command::new(BONGSU).args(["validate", "--config"]).arg(root.join("etc/bongsu/config.yaml")).output();
    let validated = validated.expect("the binary was built");
    assert!(validated.status.success(), "{}", said(&validated));
}

#[test]
fn the_unit_exposes_little() {
    let exposure = format!("--threshold={EXPOSURE_MAX}");
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", &exposure, "systemd/bongsu.service"])
        .output()
        .expect("the Debian package systemd is there");
    assert!(judged.status.success(), "{}", said(&judged));
    let unit = fs::read_to_string("systemd/bongsu.service").expect("own repository");
    for line in ["Type=notify", "WatchdogSec=60", "CapabilityBoundingSet=", "User=bongsu", "LoadCredential="] {
        assert!(unit.lines().any(|l| l.starts_with(line)), "{line}");
    }
}
