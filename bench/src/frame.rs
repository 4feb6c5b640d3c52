//! The client half of WebSocket framing, without a library: a load client must cost less than what it measures.

/// Any mask will do: the server unmasks whatever was sent.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The frame opcodes that matter here.
pub mod opcode {
    pub const TEXT: u8 = 1;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Appends one masked frame.
pub fn append(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    if payload.len() < 126 {
        out.push(0x80 | u8::try_from(payload.len()).expect("below 126"));
    } else if let Ok(len) = u16::try_from(payload.len()) {
        out.push(0x80 | 126);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// The header of a server's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub opcode: u8,
    /// Bytes of the header itself.
    pub len: usize,
    pub payload: usize,
}

/// Reads a header, or tells that there are too few bytes yet.
#[inline]
pub fn header(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let opcode = first & 0x0f;
    Some(match second & 0x7f {
        126 => Header {
            opcode,
            len: 4,
            payload: usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        },
        127 => Header {
            opcode,
            len: 10,
            payload: usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?))
                .ok()?,
        },
        short => Header {
            opcode,
            len: 2,
            payload: usize::from(short),
        },
    })
}

/// The request that asks for the upgrade.
pub fn upgrade_request(path: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_unmasks_to_what_was_sent() {
        for len in [0, 5, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut frame = Vec::new();
            append(&mut frame, opcode::TEXT, &payload);
            let head = header(&frame).unwrap();
            assert_eq!((head.opcode, head.payload), (opcode::TEXT, len));
            let masked = &frame[head.len + 4..];
            let plain: Vec<u8> = masked
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(plain, payload);
        }
    }

    #[test]
    fn a_cut_header_is_not_a_header_yet() {
        assert_eq!(header(&[0x81]), None);
        assert_eq!(header(&[0x81, 126, 0]), None);
        assert_eq!(
            header(&[0x81, 126, 1, 0]),
            Some(Header {
                opcode: 1,
                len: 4,
                payload: 256
            })
        );
    }
}
