//! The three programs. `egress` is the rule; the two on connect(2) only make a refusal quick where
//! the address alone tells it, because a packet that is dropped is sent again for two minutes.
//!
//! What a guest may reach at a resolver of the host is port 53 of that address, and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::bpf::Instruction;
use super::assembler::{Assembler, Label, Register, When, Width};
use Register::{R1, R2, R6, R7, R8, Stack};

/// The loopback is the first interface of every network namespace, and the kernel relies on it
/// (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;
/// What a program answers: of a packet, whether it passes; of connect(2), whether EPERM is spared.
const PASS: i32 = 1;
const DROP: i32 = 0;

/// Offsets in `struct __sk_buff`.
const SKB_INTERFACE: i16 = 40;
/// Offsets in `struct bpf_sock_addr`.
const SOCKET_IP4: i16 = 4;
const SOCKET_IP6: i16 = 8;
const SOCKET_PORT: i16 = 24;
const SOCKET_TYPE: i16 = 32;

const TCP: u32 = 6;
const UDP: u32 = 17;
const STREAM: u32 = libc::SOCK_STREAM.cast_unsigned();
const DNS_PORT: u16 = 53;
/// TCP's flags, in byte 13 of its header.
const TCP_FLAGS: i32 = 13;
const SYN: u32 = 0x02;
const SYN_AND_ACK: i32 = 0x12;
/// Of a TCP or UDP header: where the destination's port is.
const DESTINATION_PORT: i32 = 2;

/// IPv4: bytes of the header without options, and where things are in it.
const V4_HEADER: i32 = 20;
const V4_FRAGMENT: i16 = 6;
const V4_PROTOCOL: i16 = 9;
const V4_DESTINATION: i16 = 16;
/// From here on: multicast, reserved, broadcast.
const V4_FIRST_MULTICAST: u32 = 224;
/// IPv6: the same.
const V6_HEADER: i32 = 40;
const V6_PROTOCOL: i16 = 6;
const V6_DESTINATION: i16 = 24;
const V6_MULTICAST: u32 = 0xff;

/// Where on the stack the beginning of the packet is kept: room for the IPv6 header.
const HEADER: i16 = -40;
/// And where the two bytes are that are read of the header behind it.
const BEHIND: i16 = -48;

/// A number in network order, as a load from memory finds it.
fn network(port: u16) -> u32 {
    u16::from_ne_bytes(port.to_be_bytes()).into()
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let octets = address.octets();
    std::array::from_fn(|n| {
        let at = 4 * n;
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
}

fn v4(resolvers: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    resolvers.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn v6(resolvers: &[IpAddr]) -> impl Iterator<Item = Ipv6Addr> {
    resolvers.iter().filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    })
}

/// What leaves by the loopback is for the host itself. It passes only as part of a TCP connection
/// that somebody else began: the answers of the VM's own forwards. A connection from here begins
/// with SYN alone, so it never comes to be. Everything else passes, but for multicast and broadcast,
/// of which the kernel gives the host a copy on whichever interface they leave.
///
/// The program runs before a packet is cut into fragments; one that comes as a fragment, which takes
/// CAP_NET_RAW, is dropped, because its header may be in another.
pub(super) fn egress(resolvers: &[IpAddr]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (pass, drop, v6_packet) = (code.label(), code.label(), code.label());
    let (transport, question) = (code.label(), code.label());
    code.copy(R6, R1);
    code.load(Width::Word, R7, R6, SKB_INTERFACE);
    // A packet that has not even this is no IP packet.
    code.set(R2, 0);
    code.read_packet_at_r2(HEADER, V4_HEADER, drop);
    code.load(Width::Byte, R8, Stack, HEADER);
    code.copy(R1, R8);
    code.shift_right(R1, 4);
    code.jump_if(R1, When::Equal, 6, v6_packet);
    code.jump_if(R1, When::NotEqual, 4, drop);

    code.load(Width::Byte, R1, Stack, HEADER + V4_DESTINATION);
    code.jump_if(R1, When::AtLeast, V4_FIRST_MULTICAST, drop);
    code.jump_if(R7, When::NotEqual, LOOPBACK, pass);
    // The place of a fragment has thirteen bits; "more follow" and "do not fragment" are above.
    code.load(Width::Byte, R1, Stack, HEADER + V4_FRAGMENT);
    code.and(R1, 0x1f);
    code.jump_if(R1, When::NotEqual, 0, drop);
    code.load(Width::Byte, R1, Stack, HEADER + V4_FRAGMENT + 1);
    code.jump_if(R1, When::NotEqual, 0, drop);
    // R8: the length of the header, in words of four bytes; R7: the protocol.
    code.and(R8, 0x0f);
    code.shift_left(R8, 2);
    code.load(Width::Byte, R7, Stack, HEADER + V4_PROTOCOL);
    code.load(Width::Word, R1, Stack, HEADER + V4_DESTINATION);
    for resolver in v4(resolvers) {
        code.jump_if(R1, When::Equal, word(resolver), question);
    }
    code.jump(transport);

    code.place(v6_packet);
    code.set(R2, 0);
    code.read_packet_at_r2(HEADER, V6_HEADER, drop);
    code.load(Width::Byte, R1, Stack, HEADER + V6_DESTINATION);
    code.jump_if(R1, When::Equal, V6_MULTICAST, drop);
    code.jump_if(R7, When::NotEqual, LOOPBACK, pass);
    code.set(R8, V6_HEADER);
    // An extension header is no protocol that passes.
    code.load(Width::Byte, R7, Stack, HEADER + V6_PROTOCOL);
    for resolver in v6(resolvers) {
        let other = code.label();
        for (at, word) in (V6_DESTINATION..).step_by(4).zip(words(resolver)) {
            code.load(Width::Word, R1, Stack, HEADER + at);
            code.jump_if(R1, When::NotEqual, word, other);
        }
        code.jump(question);
        code.place(other);
    }
    if !resolvers.is_empty() {
        code.jump(transport);
        pass_question(&mut code, question, transport, pass);
    }

    code.place(transport);
    code.jump_if(R7, When::NotEqual, TCP, drop);
    code.set(R2, TCP_FLAGS);
    code.add_register(R2, R8);
    code.read_packet_at_r2(BEHIND, 1, drop);
    code.load(Width::Byte, R1, Stack, BEHIND);
    code.and(R1, SYN_AND_ACK);
    code.jump_if(R1, When::Equal, SYN, drop);

    code.place(pass);
    code.finish_with(PASS);
    code.place(drop);
    code.finish_with(DROP);
    code.assemble()
}

/// UDP or TCP to a resolver's address: port 53 passes, all else is judged as usual, by what follows.
fn pass_question(code: &mut Assembler, question: Label, transport: Label, pass: Label) {
    let ports = code.label();
    code.place(question);
    code.jump_if(R7, When::Equal, UDP, ports);
    code.jump_if(R7, When::NotEqual, TCP, transport);
    code.place(ports);
    code.set(R2, DESTINATION_PORT);
    code.add_register(R2, R8);
    code.read_packet_at_r2(BEHIND, 2, transport);
    code.load(Width::Half, R1, Stack, BEHIND);
    code.jump_if(R1, When::Equal, network(DNS_PORT), pass);
}

/// TCP to 127.0.0.0/8 and to 0.0.0.0/8, which is the same to the kernel.
pub(super) fn connect4(resolvers: &[IpAddr]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (pass, refuse, judge) = (code.label(), code.label(), code.label());
    code.copy(R6, R1);
    code.load(Width::Word, R1, R6, SOCKET_TYPE);
    code.jump_if(R1, When::NotEqual, STREAM, pass);
    code.load(Width::Word, R1, R6, SOCKET_PORT);
    code.jump_if(R1, When::NotEqual, network(DNS_PORT), judge);
    code.load(Width::Word, R1, R6, SOCKET_IP4);
    for resolver in v4(resolvers) {
        code.jump_if(R1, When::Equal, word(resolver), pass);
    }
    code.place(judge);
    code.load(Width::Byte, R1, R6, SOCKET_IP4);
    code.jump_if(R1, When::Equal, 127, refuse);
    code.jump_if(R1, When::Equal, 0, refuse);
    code.place(pass);
    code.finish_with(PASS);
    code.place(refuse);
    code.finish_with(DROP);
    code.assemble()
}

/// TCP to `::1`, to `::`, which is the same to the kernel, and to IPv4's loopback in IPv6's form.
pub(super) fn connect6(resolvers: &[IpAddr]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (pass, refuse, judge) = (code.label(), code.label(), code.label());
    let mapped = code.label();
    let at = |word: i16| SOCKET_IP6 + 4 * word;
    code.copy(R6, R1);
    code.load(Width::Word, R1, R6, SOCKET_TYPE);
    code.jump_if(R1, When::NotEqual, STREAM, pass);
    code.load(Width::Word, R1, R6, SOCKET_PORT);
    code.jump_if(R1, When::NotEqual, network(DNS_PORT), judge);
    let as_v6 = resolvers.iter().map(|address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => *address,
    });
    for resolver in as_v6 {
        let other = code.label();
        for (n, word) in (0..).zip(words(resolver)) {
            code.load(Width::Word, R1, R6, at(n));
            code.jump_if(R1, When::NotEqual, word, other);
        }
        code.jump(pass);
        code.place(other);
    }
    code.place(judge);
    for n in 0..2 {
        code.load(Width::Word, R1, R6, at(n));
        code.jump_if(R1, When::NotEqual, 0, pass);
    }
    let [_, _, prefix, _] = words(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
    let [_, _, _, one] = words(Ipv6Addr::LOCALHOST);
    code.load(Width::Word, R1, R6, at(2));
    code.jump_if(R1, When::Equal, prefix, mapped);
    code.jump_if(R1, When::NotEqual, 0, pass);
    code.load(Width::Word, R1, R6, at(3));
    code.jump_if(R1, When::Equal, 0, refuse);
    code.jump_if(R1, When::Equal, one, refuse);
    code.jump(pass);
    code.place(mapped);
    code.load(Width::Byte, R1, R6, at(3));
    code.jump_if(R1, When::Equal, 127, refuse);
    code.jump_if(R1, When::Equal, 0, refuse);
    code.place(pass);
    code.finish_with(PASS);
    code.place(refuse);
    code.finish_with(DROP);
    code.assemble()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Register::R0;

    /// What a class of instructions takes of an opcode.
    const CLASS: u8 = 0x07;
    const JUMPS: [u8; 2] = [0x05, 0x06];
    const CALL_OR_EXIT: [u8; 2] = [0x85, 0x95];

    /// The kernel's verifier says more, but only to root.
    #[test]
    fn every_jump_goes_forward_and_stays_inside() {
        let resolvers: [&[IpAddr]; 3] = [
            &[],
            &[IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53))],
            &[
                IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ],
        ];
        for resolvers in resolvers {
            for program in [egress(resolvers), connect4(resolvers), connect6(resolvers)] {
                for (at, instruction) in program.iter().enumerate() {
                    let bytes = instruction.0.to_ne_bytes();
                    if !JUMPS.contains(&(bytes[0] & CLASS)) || CALL_OR_EXIT.contains(&bytes[0]) {
                        continue;
                    }
                    let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
                    let to = at as i64 + 1 + i64::from(offset);
                    // Kernels before 5.3 take no jump back.
                    assert!(
                        to > at as i64 && to < program.len() as i64,
                        "{at}: {offset}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_encoding_is_the_kernels() {
        let mut code = Assembler::default();
        code.copy(R6, R1);
        code.load(Width::Word, R7, R6, SKB_INTERFACE);
        let end = code.label();
        code.jump_if(R0, When::NotEqual, 2, end);
        code.place(end);
        code.finish_with(1);
        // As `llvm-objdump` prints them on a little-endian machine.
        let wanted: [[u8; 8]; 5] = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0x61, 0x67, 0x28, 0, 0, 0, 0, 0],
            [0x56, 0x00, 0, 0, 2, 0, 0, 0],
            [0xb7, 0x00, 0, 0, 1, 0, 0, 0],
            [0x95, 0x00, 0, 0, 0, 0, 0, 0],
        ];
        if cfg!(target_endian = "little") {
            let found: Vec<[u8; 8]> = code
                .assemble()
                .iter()
                .map(|one| one.0.to_le_bytes())
                .collect();
            assert_eq!(found, wanted);
        }
    }
}
