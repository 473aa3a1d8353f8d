//! One-time codes: the address that a person types, the user that it stands for, and the hash that is kept of a code.
//!
//! A user who comes by address is named after a hash of it under a key of the cluster: every node finds it without a table of
//! addresses, and nobody finds the address behind the name. Invariant: a code is known to its receiver and the courier alone.

use flotilla_proto::ids::{Cid, Hash32, TsMs, UserId};
use flotilla_proto::limits;
use ring::hmac;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Phone,
    Email,
}

impl Channel {
    pub fn name(self) -> &'static str {
        match self {
            Channel::Phone => "phone",
            Channel::Email => "email",
        }
    }
}

/// Where a code goes, in one way of writing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub channel: Channel,
    pub text: String,
}

impl Address {
    /// A phone number with its country (`+49 30 123456`), or an e-mail address.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.len() > limits::CODE_ADDRESS_BYTES_MAX {
            return Err("an address has at most 254 bytes");
        }
        if text.contains('@') { Self::email(text) } else { Self::phone(text) }
    }

    /// E.164: at most 15 digits.
    fn phone(text: &str) -> Result<Self, &'static str> {
        let wrong = "a phone number is written with its country, like +49 30 123456";
        let digits: String = text.strip_prefix('+').ok_or(wrong)?.chars().filter(|c| !" -.()/".contains(*c)).collect();
        let fits = (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if fits && !digits.starts_with('0') {
            Ok(Self { channel: Channel::Phone, text: format!("+{digits}") })
        } else {
            Err(wrong)
        }
    }

    /// In lower case as a whole: providers that tell cases apart are a theory, people who type them differently are not.
    fn email(text: &str) -> Result<Self, &'static str> {
        let wrong = "this is not an e-mail address";
        let text = text.to_lowercase();
        let (local, domain) = text.split_once('@').ok_or(wrong)?;
        let plain = |part: &str| {
            !part.is_empty()
                && !part.chars().any(|c| c.is_whitespace() || c.is_control() || "<>,;:\"()[]\\@".contains(c))
        };
        let dotted =
            domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains("..");
        if plain(local) && plain(domain) && dotted && local.len() <= 64 {
            Ok(Self { channel: Channel::Email, text })
        } else {
            Err(wrong)
        }
    }
}

/// A code, and the name that its delivery has: the same for the same code, or a receiver that takes each name once would drop a
/// new one.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    pub digits: String,
    pub id: Cid,
}

/// Whether the name is one that [`Codes::user`] gives.
pub fn is_of_address(user: &UserId) -> bool {
    let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    user.as_str().strip_prefix("e.").or_else(|| user.as_str().strip_prefix("p.")).is_some_and(hex)
}

/// Made of the cluster's secret; the same at every node.
pub struct Codes {
    key: hmac::Key,
}

impl Codes {
    /// The name under which the key is derived.
    pub const PURPOSE: &'static str = "flotilla one-time codes v1";

    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.key);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(mac.sign().as_ref());
        out
    }

    /// 128 bits of the hash; `e.` or `p.` in front says which kind of address it was.
    pub fn user(&self, address: &Address) -> UserId {
        let kind = address.channel.name();
        let mac = self.mac(&[b"address", kind.as_bytes(), address.text.as_bytes()]);
        let hex: String = mac[..16].iter().map(|b| format!("{b:02x}")).collect();
        UserId::parse(&format!("{}.{hex}", &kind[..1])).expect("a letter, a dot and hexadecimal digits are a user id")
    }

    /// Six digits, as good as random to who has not the key. A repeat of the request (within minutes) makes the same ones: its
    /// first answer may have been lost, and the code be on its way. Not for ever: who has seen one must not get it again.
    pub fn make(&self, user: &UserId, request: Cid, now: TsMs) -> Made {
        let window = (now.0 / (2 * limits::CODE_LIFE_MS)).to_be_bytes();
        let mac = |what: &[u8]| self.mac(&[what, user.as_str().as_bytes(), &request.0.to_be_bytes(), &window]);
        let (digits, id) = (mac(b"make"), mac(b"id"));
        let number = digits.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
        let id = id.first_chunk::<16>().map_or(0, |b| u128::from_be_bytes(*b));
        Made { digits: format!("{:06}", number % 1_000_000), id: Cid(id) }
    }

    /// Of this user only: the same code of another user has another hash.
    pub fn hash(&self, user: &UserId, code: &str) -> Hash32 {
        Hash32(self.mac(&[b"code", user.as_str().as_bytes(), code.as_bytes()]))
    }
}

/// As it was typed, without the spaces that people put into it; none where it cannot be a code.
pub fn parse_code(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != '-').take(7).collect();
    (digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, &'static str> {
        Address::parse(text).map(|a| a.text)
    }

    #[test]
    fn an_address_is_one_however_it_is_written() {
        assert_eq!(parsed(" +49 (30) 123-456 "), Ok("+4930123456".into()));
        assert_eq!(parsed("Ann.B+chat@Example.COM"), Ok("ann.b+chat@example.com".into()));
        for bad in [
            "",
            "030 123456",
            "+0123456789",
            "+1234",
            "+12345678901234567",
            "a@b",
            "@x.org",
            "a@@x.org",
            "a b@x.org",
            "a@x..org",
            "<a@x.org>",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_and_hashes_depend_on_the_clusters_secret_and_on_each_other() {
        let (one, two) = (Codes::new(&[1; 32]), Codes::new(&[2; 32]));
        let address = Address::parse("ann@example.com").expect("valid");
        let ann = one.user(&address);
        assert!(ann.as_str().starts_with("e.") && ann.as_str().len() == 34);
        assert_eq!(ann, one.user(&address));
        assert!(is_of_address(&ann) && is_of_address(&one.user(&Address::parse("+4930123456").expect("valid"))));
        assert_ne!(ann, two.user(&address));
        let bob = UserId::parse("bob").expect("valid");
        assert!(!is_of_address(&bob));
        assert_ne!(one.hash(&ann, "123456"), one.hash(&bob, "123456"));
        assert_ne!(one.hash(&ann, "123456"), two.hash(&ann, "123456"));
        assert_ne!(one.hash(&ann, "123456").0, *ring::digest::digest(&ring::digest::SHA256, b"123456").as_ref());
    }

    #[test]
    fn codes_have_six_digits() {
        let (codes, ann) = (Codes::new(&[1; 32]), UserId::parse("ann").expect("valid"));
        let made: Vec<Made> = (0..200).map(|n| codes.make(&ann, Cid(n), TsMs(0))).collect();
        assert!(made.iter().all(|code| parse_code(&code.digits).as_ref() == Some(&code.digits)));
        assert!(
            made.iter().map(|code| &code.digits).collect::<std::collections::BTreeSet<_>>().len() > 190,
            "they differ"
        );
        assert!(codes.make(&ann, Cid(1), TsMs(1_000)) == made[1], "a repeat makes the same");
        let later = codes.make(&ann, Cid(1), TsMs(4 * limits::CODE_LIFE_MS));
        assert!(
            later.digits != made[1].digits && later.id != made[1].id,
            "but not for ever, and then under another name"
        );
        assert_eq!(parse_code("123 456"), Some("123456".into()));
        for bad in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert_eq!(parse_code(bad), None, "{bad}");
        }
    }
}
