//! The configuration: any text ends in a configuration that prints and reads again, or in errors.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match gatepost::config::parse(text, "fuzz.toml", Path::new("/")) {
        Ok(loaded) => {
            let printed = loaded.config.to_toml();
            assert!(gatepost::config::parse(&printed, "printed.toml", Path::new("/")).is_ok(), "{printed}");
        }
        Err(errors) => assert!(errors.all().iter().all(|error| error.excerpt.is_some()), "{errors}"),
    }
});
