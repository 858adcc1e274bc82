//! The bytes of the fuzzer, as choices.

/// Zeros follow when they are used up.
#[derive(Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(super) fn bool(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// Eight choices in one byte.
#[derive(Clone, Copy)]
pub(super) struct Bits(pub(super) u8);

impl Bits {
    pub(super) fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 == 1
    }
}
