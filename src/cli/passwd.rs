//! `gatepost passwd`: users in a password file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustix::fs::FlockOperation;

use super::{exit, output};
use crate::broker::auth::password;
use crate::broker::auth::users::check_name;
use terminal::Terminal;

mod terminal;

/// Add a user to a password file, change its password or delete it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gatepost passwd passwd ann                     ask twice, without echo
  gatepost passwd --batch passwd ann < secret    the password is the first line of standard input
  gatepost passwd --delete passwd ann

The file is made if it is missing, with mode 0600; by root in the folder of a service's group, such as
/etc/gatepost, with 0640 and that group. A running gateway reads it again on SIGHUP.
Files of mosquitto_passwd are understood; the other lines stay as they are.

Exit codes: 0 done; 1 not.")]
pub struct Args {
    /// The password file, as `password_file` in [broker] names it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The user's name
    #[arg(value_name = "USER")]
    user: String,
    /// With --batch instead of standard input; other users of this machine can see it in the list of processes
    #[arg(value_name = "PASSWORD", requires = "batch", hide = true)]
    password: Option<String>,
    /// Delete the user
    #[arg(short = 'D', long, conflicts_with = "batch")]
    delete: bool,
    /// Do not ask: the password is one line on standard input
    #[arg(short, long)]
    batch: bool,
}

/// MQTT carries a password with a 16-bit length (MQTT 5.0, section 3.1.3.6).
const MAX_PASSWORD_BYTES: usize = 65_535;

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match change(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("error: {error:#}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn change(args: &Args) -> anyhow::Result<()> {
    // Also a name that was written otherwise can be deleted.
    if !args.delete {
        check_name(&args.user)?;
    }
    // Asked for before the file is locked: that may take its time.
    let line = if args.delete { None } else { Some(new_line(args)?) };
    let path = resolve(&args.file)?;
    let _lock = lock(&path)?;
    let before = read(&path)?;
    if before.is_none() && args.delete {
        bail!("there is no {}", path.display());
    }
    let (text, found) = edit(before.as_deref().unwrap_or_default(), &args.user, line.as_deref());
    ensure!(found || !args.delete, "the user {:?} is not in {}", args.user, path.display());
    replace(&path, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn new_line(args: &Args) -> anyhow::Result<String> {
    let password = match (&args.password, args.batch) {
        (Some(password), _) => password.clone(),
        (None, true) => read_line(&mut io::stdin().lock()).context("cannot read the password from standard input")?,
        (None, false) => ask()?,
    };
    ensure!(!password.is_empty(), "the password is empty");
    ensure!(password.len() <= MAX_PASSWORD_BYTES, "the password is longer than {MAX_PASSWORD_BYTES} bytes");
    let hash = password::create(password.as_bytes()).context("cannot make the hash")?;
    Ok(format!("{}:{hash}", args.user))
}

/// Asks twice, on the terminal or, as passwd(1) does, on standard input if that is something else.
fn ask() -> anyhow::Result<String> {
    let [password, again] = if io::stdin().is_terminal() {
        let mut terminal = Terminal::open().context("cannot ask on the terminal; hint: use --batch")?;
        let mut ask = |question| terminal.ask(question).context("no password was given; nothing was changed");
        [ask("Password: ")?, ask("Again: ")?]
    } else {
        let mut input = io::stdin().lock();
        let mut next = || read_line(&mut input).context("cannot read the password from standard input");
        [next()?, next()?]
    };
    ensure!(password == again, "the two passwords differ; nothing was changed; hint: with --batch one is enough");
    Ok(password)
}

/// The first line, without its end.
fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(2 * MAX_PASSWORD_BYTES as u64).read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The file itself where `path` is a link to it: a link stays one.
fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Held until the change is done; the file itself is replaced, so its folder is locked. A lock that the folder does not
/// take is gone without: it guards against nothing but another `gatepost passwd`.
fn lock(path: &Path) -> anyhow::Result<File> {
    let folder = folder(path);
    let opened = File::open(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    let _ = rustix::fs::flock(&opened, FlockOperation::LockExclusive);
    Ok(opened)
}

/// `None`: there is no file yet.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// `text` with `line` in the place of the user's, or at the end; without any if there is no `line`. Says whether the
/// user was there.
fn edit(text: &str, user: &str, line: Option<&str>) -> (String, bool) {
    let mut line = line.map(|line| format!("{line}\n"));
    let (mut edited, mut found) = (String::with_capacity(text.len() + 256), false);
    for old in text.split_inclusive('\n') {
        let is_user = !old.starts_with('#') && old.split_once(':').is_some_and(|(name, _)| name.trim() == user);
        if is_user {
            found = true;
            edited.push_str(&line.take().unwrap_or_default());
        } else {
            edited.push_str(old);
        }
    }
    if let Some(line) = line {
        if !edited.is_empty() && !edited.ends_with('\n') {
            edited.push('\n');
        }
        edited.push_str(&line);
    }
    (edited, found)
}

/// Whole or not at all, also when the power goes.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let folder = folder(path);
    let new = folder.join(format!(".{name}.{}.new", std::process::id()));
    // Left behind by a process of the same number.
    let _ = fs::remove_file(&new);
    let written = write_new(&new, path, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(new: &Path, old: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let (uid, gid, mode) = owner(old)?;
    // Only root may give a file away. Who may not becomes its owner, as with any editor.
    let _ = fchown(&file, Some(uid), Some(gid));
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Whose `path` is to be, and its mode. What root makes in the folder of a service's group, such as /etc/gatepost, is for
/// that group to read; all else is its owner's alone.
fn owner(path: &Path) -> io::Result<(u32, u32, u32)> {
    let folder = folder(path).metadata()?;
    let user = rustix::process::geteuid();
    let before = path.metadata();
    let (uid, gid, group_may_read) = match &before {
        Ok(before) => (before.uid(), before.gid(), before.mode() & 0o040 != 0),
        Err(_) => (user.as_raw(), folder.gid(), true),
    };
    let is_shared = group_may_read && user.is_root() && gid == folder.gid() && gid != 0;
    Ok((uid, gid, if is_shared { 0o640 } else { 0o600 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_and_comments_stay() {
        let text = "# ann:x\nann:1\n\n bob : 2\ncid:3";
        let table = [
            ("ann", Some("ann:9"), "# ann:x\nann:9\n\n bob : 2\ncid:3", true),
            ("bob", Some("bob:9"), "# ann:x\nann:1\n\nbob:9\ncid:3", true),
            ("cid", Some("cid:9"), "# ann:x\nann:1\n\n bob : 2\ncid:9\n", true),
            ("dan", Some("dan:9"), "# ann:x\nann:1\n\n bob : 2\ncid:3\ndan:9\n", false),
            ("bob", None, "# ann:x\nann:1\n\ncid:3", true),
            ("dan", None, text, false),
        ];
        for (user, line, expected, found) in table {
            assert_eq!(edit(text, user, line), (expected.to_owned(), found), "{user} {line:?}");
        }
        assert_eq!(edit("ann:1\nann:2\n", "ann", Some("ann:9")).0, "ann:9\n", "a name that stands twice");
        assert_eq!(edit("", "ann", Some("ann:9")).0, "ann:9\n");
    }

    #[test]
    fn a_line_ends_with_its_end() {
        let table = [("a b\r\nx", "a b"), ("a\n", "a"), ("a", "a"), ("", ""), (" a \n", " a ")];
        for (input, expected) in table {
            assert_eq!(read_line(&mut input.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_is_replaced_with_mode_0600_and_nothing_is_left_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        for text in ["a\n", "b\n"] {
            replace(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/"), "x").is_err());
    }
}
