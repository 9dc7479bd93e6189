//! An ACL file: any text is rules or faults, and rules decide for any client and topic.
#![no_main]

use gatepost::broker::auth::acl::Acl;
use gatepost::topic::TopicFilter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, &str, Option<&str>, &str)| {
    let (text, client_id, user, topic) = data;
    let lines = text.lines().count();
    match Acl::parse(text) {
        Ok(acl) => {
            assert!(acl.len() <= lines);
            let rights = acl.rights(client_id, user);
            assert!(!acl.is_empty() || !(rights.may_read(topic) || rights.may_write(topic)));
            if let Ok(filter) = TopicFilter::new(topic) {
                let literal = !topic.contains(['+', '#']);
                assert!(!literal || rights.may_subscribe(&filter) == rights.may_read(topic));
            }
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| (1..=lines).contains(&fault.line))),
    }
});
