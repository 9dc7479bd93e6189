//! Golden files: what is said about each wrong configuration in `tests/golden/config`.
//!
//! A case is `NAME.toml`, or `NAME/gatepost.toml` with drop-ins beside it; `NAME.err` is the report. After a change
//! that is meant, `GATEPOST_BLESS=1 cargo test --test config_errors` writes the reports anew: read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use gatepost::config::{self, Severity};

const FOLDER: &str = "tests/golden/config";

/// The configuration of each case, and its report.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cases.push((path.join("gatepost.toml"), path.with_extension("err")));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            cases.push((path.clone(), path.with_extension("err")));
        }
    }
    cases.sort();
    cases
}

#[test]
fn each_wrong_file_gets_its_report() {
    let bless = std::env::var_os("GATEPOST_BLESS").is_some();
    let cases = cases();
    assert!(cases.len() >= 70, "only {} cases in {FOLDER}", cases.len());
    let here = std::env::current_dir().unwrap().display().to_string();
    let mut wrong = Vec::new();
    for (file, report) in &cases {
        let errors = config::load(file).expect_err(&format!("{} is accepted", file.display()));
        let found = errors.to_string().replace(&here, "$PWD") + "\n";
        if bless {
            fs::write(report, &found).unwrap();
        } else if fs::read_to_string(report).ok().as_ref() != Some(&found) {
            wrong.push(format!("{}:\n{found}", report.display()));
        }
    }
    assert!(wrong.is_empty(), "these reports differ:\n{}", wrong.join("\n"));
}

#[test]
fn every_error_names_its_place_and_no_secret() {
    for (file, _) in cases() {
        let errors = config::load(&file).unwrap_err();
        let text = errors.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        for error in errors.all() {
            let excerpt = error.excerpt.as_ref().unwrap();
            assert_eq!(error.severity, Severity::Error);
            let lines = fs::read_to_string(&error.file).unwrap().lines().count();
            assert!((1..=lines + 1).contains(&excerpt.line), "{error}");
            assert!(text.contains(&format!("{}:{}:{}", error.file, excerpt.line, excerpt.column)), "{error}");
        }
    }
}

#[test]
fn each_report_has_its_case() {
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "err") {
            let exists = path.with_extension("toml").exists() || path.with_extension("").is_dir();
            assert!(exists, "{} belongs to no case", path.display());
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = config::load(Path::new("tests/no/such.toml")).unwrap_err().to_string();
    assert!(missing.contains("cannot read tests/no/such.toml"), "{missing}");
    let directory = config::load(Path::new(FOLDER)).unwrap_err().to_string();
    assert!(directory.contains("cannot read tests/golden/config"), "{directory}");
}

#[test]
fn other_encodings_are_refused_at_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("latin1.toml");
    fs::write(&file, b"[gateway]\nname = \"gr\xfcn\"\n").unwrap();
    let errors = config::load(&file).unwrap_err();
    assert!(errors.to_string().contains("latin1.toml:2:11"), "{errors}");
    fs::write(&file, vec![b'#'; 2 * 1024 * 1024]).unwrap();
    assert!(config::load(&file).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn a_file_of_noise_is_refused_in_bounded_time_and_space() {
    let noise = "a = = \u{1b}[\n".repeat(50_000) + &"x".repeat(200_000);
    let errors = config::parse(&noise, "noise.toml", Path::new("/")).unwrap_err();
    assert_eq!(errors.all().len(), 200);
    let text = errors.to_string();
    assert!(text.ends_with("more than 200 errors in the configuration"));
    assert!(text.len() < 200 * 1000 && !text.contains('\u{1b}'));
}
