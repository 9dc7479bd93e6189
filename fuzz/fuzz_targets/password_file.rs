//! A password file: any text is users or faults, and no fault shows what may be a password.
#![no_main]

use gatepost::broker::auth::users::{Users, check_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.lines().count();
    match Users::parse(text) {
        Ok(users) => {
            assert!(users.len() <= lines);
            assert_eq!(users.decoy("nobody").is_none(), users.is_empty());
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let Some((name, _)) = line.split_once(':') else { continue };
                assert!(check_name(name.trim()).is_ok() && users.get(name.trim()).is_some(), "{line}");
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
            for fault in faults {
                let line = text.lines().nth(fault.line - 1).unwrap_or_default();
                let secret = line.split_once(':').map_or(line, |(_, hash)| hash).trim();
                let name = line.split(':').next().unwrap_or_default();
                // A long one that is not also the name, which is shown, nor a word of ours.
                if secret.len() > 200 && !name.contains(secret) {
                    assert!(!fault.problem.contains(secret), "{fault}");
                }
            }
        }
    }
});
