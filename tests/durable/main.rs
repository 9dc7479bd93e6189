//! What survives a stop and a kill -9 of the real binary.

#[allow(dead_code)] // this target uses a part
#[path = "../broker/client.rs"]
mod client;
#[allow(unused_imports)]
#[path = "../common/mod.rs"]
mod common;

mod groups;
mod kill;
mod restart;
mod room;
mod stop;
mod trouble;
mod unfit;
mod wills;
mod world;
