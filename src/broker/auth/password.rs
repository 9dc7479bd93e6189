//! Password hashes: those of mosquitto_passwd, and the one that `gatepost passwd` writes.

use std::fmt;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::memory::{NoMemory, Spare, Waiting};

/// One user's hash. Neither salt nor digest are shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    method: Method,
    salt: Box<[u8]>,
    digest: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// `$6$`: one SHA-512 of password and salt.
    Sha512,
    /// `$7$`: PBKDF2 with HMAC-SHA-512.
    Pbkdf2 { iterations: u32 },
    /// `$argon2id$`, RFC 9106.
    Argon2id { kib: u32, passes: u32, lanes: u32 },
}

/// Why a text is not a hash that can be used. The text itself is never part of it: it may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Nothing stands there.
    #[error("there is no password hash")]
    Empty,
    /// No `$` at its front.
    #[error("that is no password hash; a password in the clear is not accepted")]
    Plain,
    /// `$1$`, `$2y$`, …
    #[error("that kind of hash is not known: it is neither $6$, $7$ nor $argon2id$")]
    Unknown,
    /// A part is missing, too much, not base64 or of a wrong length.
    #[error("the password hash is damaged")]
    Damaged,
    /// To check it would take too long or too much memory.
    #[error(
        "the password hash asks for more than is granted: {MAX_ITERATIONS} iterations ($7$), \
         m={MAX_KIB} KiB, t={MAX_PASSES}, p={MAX_LANES} ($argon2id$)"
    )]
    TooCostly,
}

/// Of `$7$`; mosquitto writes 101 or 1000.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Of argon2id: 64 MiB, as the second recommendation of RFC 9106. mosquitto writes 46 MiB.
const MAX_KIB: u32 = 64 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// The least of OWASP's recommendations: 19 MiB, 2 passes, 1 lane. A tenth of a second on a Raspberry Pi 4, two or
/// three on the first one; several at once still fit into the memory of the smallest.
const OUR_KIB: u32 = 19 * 1024;
const OUR_PASSES: u32 = 2;
const OUR_LANES: u32 = 1;

const SHA512_BYTES: usize = 64;

/// mosquitto pads, PHC strings do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Hash {
    /// Reads what stands behind the user name in a password file.
    pub fn parse(text: &str) -> Result<Hash, HashError> {
        let Some(parts) = text.strip_prefix('$') else {
            return Err(if text.is_empty() { HashError::Empty } else { HashError::Plain });
        };
        let parts: Vec<&str> = parts.split('$').collect();
        let (method, salt, digest) = match parts[..] {
            ["6", salt, digest] => (Method::Sha512, salt, digest),
            ["7", iterations, salt, digest] => (pbkdf2(iterations)?, salt, digest),
            ["argon2id", "v=19", costs, salt, digest] => (argon2id(costs)?, salt, digest),
            ["6" | "7" | "argon2id" | "", ..] => return Err(HashError::Damaged),
            _ => return Err(HashError::Unknown),
        };
        let salt = decode(salt)?;
        let digest = decode(digest)?;
        let lengths_fit = match method {
            Method::Sha512 | Method::Pbkdf2 { .. } => digest.len() == SHA512_BYTES,
            Method::Argon2id { .. } => (16..=64).contains(&digest.len()),
        };
        if !(8..=64).contains(&salt.len()) || !lengths_fit {
            return Err(HashError::Damaged);
        }
        Ok(Hash { method, salt, digest })
    }

    /// Whether it is the hash of `password`. Takes up to a second and [`Hash::memory`]: not for the runtime's threads.
    /// The comparison takes the same time whatever it finds.
    ///
    /// # Errors
    /// There is no such memory.
    pub fn matches(&self, password: &[u8], waiting: Waiting, spare: &Spare) -> Result<bool, NoMemory> {
        let mut found = vec![0; self.digest.len()];
        match self.method {
            Method::Sha512 => {
                let digest = Sha512::new().chain_update(password).chain_update(&self.salt).finalize();
                found.copy_from_slice(&digest);
            }
            Method::Pbkdf2 { iterations } => {
                pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, iterations, &mut found);
            }
            Method::Argon2id { kib, passes, lanes } => {
                let Ok(params) = Params::new(kib, passes, lanes, Some(found.len())) else { return Ok(false) };
                let mut blocks = waiting.take(params.block_count())?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let hashed = argon2.hash_password_into_with_memory(password, &self.salt, &mut found, &mut blocks[..]);
                spare.give(blocks);
                if hashed.is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(found.ct_eq(&self.digest).into())
    }

    /// MiB that [`Hash::matches`] takes, rounded up; 64 at most.
    pub fn memory(&self) -> u32 {
        match self.method {
            Method::Argon2id { kib, .. } => kib.div_ceil(1024),
            Method::Sha512 | Method::Pbkdf2 { .. } => 0,
        }
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("method", &self.method).finish_non_exhaustive()
    }
}

/// A new argon2id hash of `password` with a salt of its own, as it stands in a password file.
///
/// # Errors
/// If the system gives no random bytes or no memory.
pub fn create(password: &[u8]) -> Result<String, argon2::password_hash::Error> {
    let params = Params::new(OUR_KIB, OUR_PASSES, OUR_LANES, None)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password)?.to_string())
}

fn pbkdf2(iterations: &str) -> Result<Method, HashError> {
    match number(iterations)? {
        0 => Err(HashError::Damaged),
        iterations if iterations > MAX_ITERATIONS => Err(HashError::TooCostly),
        iterations => Ok(Method::Pbkdf2 { iterations }),
    }
}

/// `m=19456,t=2,p=1`
fn argon2id(costs: &str) -> Result<Method, HashError> {
    let parts: Vec<&str> = costs.split(',').collect();
    let [m, t, p] = parts[..] else { return Err(HashError::Damaged) };
    let cost = |text: &str, name| number(text.strip_prefix(name).ok_or(HashError::Damaged)?);
    let (kib, passes, lanes) = (cost(m, "m=")?, cost(t, "t=")?, cost(p, "p=")?);
    if kib > MAX_KIB || passes > MAX_PASSES || lanes > MAX_LANES {
        return Err(HashError::TooCostly);
    }
    // The lower bounds.
    Params::new(kib, passes, lanes, None).map_err(|_| HashError::Damaged)?;
    Ok(Method::Argon2id { kib, passes, lanes })
}

/// A number too large for its type is too costly as well.
fn number(text: &str) -> Result<u32, HashError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HashError::Damaged);
    }
    Ok(text.parse().unwrap_or(u32::MAX))
}

fn decode(text: &str) -> Result<Box<[u8]>, HashError> {
    BASE64.decode(text).map(Vec::into_boxed_slice).map_err(|_| HashError::Damaged)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Made with mosquitto_passwd of mosquitto 2.0 for the password `test`.
    const SHA512: &str =
        "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    fn matches(hash: &Hash, password: &[u8]) -> Result<bool, NoMemory> {
        let spare = Arc::new(Spare::default());
        hash.matches(password, spare.wait(), &spare)
    }

    fn argon2id_line(params: Params, salt: &[u8], password: &[u8]) -> String {
        let (kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        let mut digest = [0; 64];
        let params = Params::new(kib, passes, lanes, Some(64)).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, salt, &mut digest)
            .unwrap();
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
        let (salt, digest) = (base64.encode(salt), base64.encode(digest));
        format!("$argon2id$v=19$m={kib},t={passes},p={lanes}${salt}${digest}")
    }

    #[test]
    fn each_kind_knows_its_password() {
        let salt = [7; 12];
        let mut digest = [0; 64];
        pbkdf2::pbkdf2_hmac::<Sha512>(b"test", &salt, 101, &mut digest);
        let base64 = base64::engine::general_purpose::STANDARD;
        let pbkdf2 = format!("$7$101${}${}", base64.encode(salt), base64.encode(digest));
        // As mosquitto's: a salt of 64 bytes.
        let argon2id = argon2id_line(Params::new(64, 1, 2, None).unwrap(), &[9; 64], b"test");
        for line in [SHA512, &pbkdf2, &argon2id] {
            let hash = Hash::parse(line).unwrap();
            assert_eq!(matches(&hash, b"test"), Ok(true), "{line}");
            for wrong in [&b"Test"[..], b"", b"tes", b"test "] {
                assert_eq!(matches(&hash, wrong), Ok(false), "{line}");
            }
        }
    }

    #[test]
    fn what_we_write_we_read_and_no_salt_comes_twice() {
        let (one, two) = (create(b"hunter2").unwrap(), create(b"hunter2").unwrap());
        assert_ne!(one, two);
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        let hash = Hash::parse(&one).unwrap();
        assert_eq!((matches(&hash, b"hunter2"), hash.memory()), (Ok(true), 19));
    }

    #[test]
    fn what_is_no_hash_is_refused_by_its_cause() {
        let digest = SHA512.rsplit('$').next().unwrap();
        let table = [
            ("", HashError::Empty),
            ("hunter2", HashError::Plain),
            ("$", HashError::Damaged),
            ("$6", HashError::Damaged),
            ("$6$", HashError::Damaged),
            ("$6$njERlZMi/7DzNB9E", HashError::Damaged),
            ("$6$njERlZMi/7DzNB9E$AAAA", HashError::Damaged),
            ("$6$!$!", HashError::Damaged),
            (&format!("{SHA512}$x"), HashError::Damaged),
            (&format!("$7$0$njERlZMi/7DzNB9E${digest}"), HashError::Damaged),
            (&format!("$7$1000001$njERlZMi/7DzNB9E${digest}"), HashError::TooCostly),
            (&format!("$7$99999999999$njERlZMi/7DzNB9E${digest}"), HashError::TooCostly),
            (&format!("$argon2id$v=19$m=65537,t=1,p=1$njERlZMi/7DzNB9E${digest}"), HashError::TooCostly),
            (&format!("$argon2id$v=19$m=1024,t=17,p=1$njERlZMi/7DzNB9E${digest}"), HashError::TooCostly),
            (&format!("$argon2id$v=19$m=1024,t=1,p=17$njERlZMi/7DzNB9E${digest}"), HashError::TooCostly),
            (&format!("$argon2id$v=19$m=1,t=1,p=1$njERlZMi/7DzNB9E${digest}"), HashError::Damaged),
            (&format!("$argon2id$v=16$m=1024,t=1,p=1$njERlZMi/7DzNB9E${digest}"), HashError::Damaged),
            ("$2y$10$abcdefghijklmnopqrstuv", HashError::Unknown),
            ("$argon2i$v=19$m=1024,t=1,p=1$a$b", HashError::Unknown),
        ];
        for (text, expected) in table {
            assert_eq!(Hash::parse(text), Err(expected), "{text}");
            assert!(text.is_empty() || !expected.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn nothing_shows_a_digest() {
        let shown = format!("{:?}", Hash::parse(SHA512).unwrap());
        assert_eq!(shown, "Hash { method: Sha512, .. }");
    }
}
