//! eBPF by hand: one constructor for each instruction that the filter uses, and labels for jumps.
//!
//! The encoding is that of the kernel's `Documentation/bpf/standardization/instruction-set.rst`.

use super::super::bpf::Instruction;

/// R0 is a result, R1 to R5 are the arguments of a call and lost in it, R6 to R9 are kept, R10
/// points to the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    Stack = 10,
}

/// Width of a load from memory, as its opcode has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// When a jump is taken: its opcode, of the 32-bit class, so that an address with the highest bit
/// set is compared as it is and not extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Equal = 0x16,
    NotEqual = 0x56,
    /// Unsigned.
    AtLeast = 0x36,
}

/// A place in a program that is jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Opcodes.
const MOV_REGISTER: u8 = 0xbf;
const MOV: u8 = 0xb7;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const LOAD: u8 = 0x61;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// `long bpf_skb_load_bytes(skb, offset, to, length)`: zero, or an error where the packet ends
/// before. Unlike a direct access it reads what lies in fragments of the buffer too.
const SKB_LOAD_BYTES: i32 = 26;

/// A program that grows, instruction by instruction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Line>,
    /// Where each label is; none until it was placed.
    labels: Vec<Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: Offset,
    immediate: i32,
}

#[derive(Clone, Copy, Debug)]
enum Offset {
    Fixed(i16),
    To(Label),
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is before what comes next.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(MOV_REGISTER, to, from as u8, Offset::Fixed(0), 0);
    }

    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.push(MOV, to, 0, Offset::Fixed(0), value);
    }

    pub(super) fn add(&mut self, to: Register, value: i32) {
        self.push(ADD, to, 0, Offset::Fixed(0), value);
    }

    pub(super) fn add_register(&mut self, to: Register, from: Register) {
        self.push(ADD_REGISTER, to, from as u8, Offset::Fixed(0), 0);
    }

    pub(super) fn and(&mut self, to: Register, mask: i32) {
        self.push(AND, to, 0, Offset::Fixed(0), mask);
    }

    pub(super) fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(SHIFT_LEFT, to, 0, Offset::Fixed(0), bits);
    }

    pub(super) fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(SHIFT_RIGHT, to, 0, Offset::Fixed(0), bits);
    }

    pub(super) fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) {
        let opcode = LOAD | width as u8;
        self.push(opcode, to, base as u8, Offset::Fixed(offset), 0);
    }

    pub(super) fn jump_if(&mut self, register: Register, when: When, value: u32, to: Label) {
        let value = value.cast_signed();
        self.push(when as u8, register, 0, Offset::To(to), value);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.push(JUMP, Register::R0, 0, Offset::To(to), 0);
    }

    /// Copies `length` bytes of the packet to the stack at `slot`, from where R2 says; a packet that
    /// ends before goes to `short`. The packet is that of R6.
    pub(super) fn read_packet_at_r2(&mut self, slot: i16, length: i32, short: Label) {
        self.copy(Register::R1, Register::R6);
        self.copy(Register::R3, Register::Stack);
        self.add(Register::R3, slot.into());
        self.set(Register::R4, length);
        self.push(CALL, Register::R0, 0, Offset::Fixed(0), SKB_LOAD_BYTES);
        self.jump_if(Register::R0, When::NotEqual, 0, short);
    }

    pub(super) fn finish_with(&mut self, result: i32) {
        self.set(Register::R0, result);
        self.push(EXIT, Register::R0, 0, Offset::Fixed(0), 0);
    }

    fn push(
        &mut self,
        opcode: u8,
        destination: Register,
        source: u8,
        offset: Offset,
        immediate: i32,
    ) {
        self.code.push(Line {
            opcode,
            destination: destination as u8,
            source,
            offset,
            immediate,
        });
    }

    /// A label that was not placed is a jump to itself, which the verifier refuses.
    pub(super) fn assemble(self) -> Vec<Instruction> {
        let labels = &self.labels;
        let lines = self.code.iter().enumerate();
        lines
            .map(|(at, line)| {
                let offset = match line.offset {
                    Offset::Fixed(offset) => offset,
                    // Jumps count from the next instruction.
                    Offset::To(label) => labels[label.0]
                        .and_then(|to| i16::try_from(to).ok()?.checked_sub(i16::try_from(at).ok()?))
                        .unwrap_or(0)
                        .wrapping_sub(1),
                };
                line.encode(offset)
            })
            .collect()
    }
}

impl Line {
    fn encode(self, offset: i16) -> Instruction {
        // A bit field in C, so the order of the two halves is that of the machine.
        let registers = if cfg!(target_endian = "little") {
            self.source << 4 | self.destination
        } else {
            self.destination << 4 | self.source
        };
        let mut bytes = [0; 8];
        bytes[0] = self.opcode;
        bytes[1] = registers;
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.immediate.to_ne_bytes());
        Instruction(u64::from_ne_bytes(bytes))
    }
}
