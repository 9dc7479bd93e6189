//! Exit codes, as sysexits.h names them where it has a name.

/// All went well.
pub const OK: u8 = 0;
/// The command could not do what was asked.
pub const FAILURE: u8 = 1;
/// The arguments are wrong (as clap exits), or `route` found that nothing matches.
pub const USAGE: u8 = 2;
/// `EX_UNAVAILABLE`: no gateway answers.
pub const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: an internal failure.
pub const SOFTWARE: u8 = 70;
/// `EX_OSERR`: a listener could not bind.
pub const OS_ERROR: u8 = 71;
/// `EX_IOERR`: what was to be printed could not be written.
pub const IO_ERROR: u8 = 74;
/// `EX_CONFIG`: the configuration is wrong.
pub const CONFIG: u8 = 78;
