//! A small allocator for plugins.
//!
//! It starts in the memory that a module brings along (the tail of its initial pages) and asks for more only when
//! that is used up: the allocator of std grows memory at its first use, which on the host is a system call under a
//! process-wide lock, and most instances never need it. Freed blocks go to a list of their size class and are taken
//! from there again; nothing is merged or given back, since instances are small and short-lived.
//!
//! Invariant: a block's class follows from its layout alone, so a block needs no header.

#![expect(
    unsafe_code,
    reason = "an allocator hands out raw memory; this one runs on one thread, inside a sandbox"
)]

use std::{alloc::Layout, ptr};

/// Blocks are multiples of this, and aligned to it.
const GRAIN: usize = 16;

/// A page of WebAssembly memory.
const PAGE: usize = 64 * 1024;

/// Four classes per doubling, from one grain to the largest layout there is: a block wastes at most a quarter.
const CLASSES: usize = 4 * (usize::BITS as usize);

/// Where blocks come from.
pub(crate) trait Memory {
    /// First and last-but-one address of what is there from the start.
    fn initial(&mut self) -> (usize, usize);

    /// Adds pages and tells where they begin.
    fn grow(&mut self, pages: usize) -> Option<usize>;
}

/// The blocks of one memory.
#[derive(Debug)]
pub(crate) struct Heap<M> {
    memory: M,
    /// Heads of the lists of free blocks, by class; a free block's first word is the next one's address. 0 ends.
    free: [usize; CLASSES],
    /// The same for blocks with an alignment above the grain, by the power of two that is both size and alignment.
    free_aligned: [usize; usize::BITS as usize],
    /// The part that was never handed out. Equal at the very start, before the memory was asked.
    next: usize,
    end: usize,
}

/// How large a block a layout gets, and on which list it waits when free.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Small { index: usize, size: usize },
    Aligned { power: usize, size: usize },
}

impl Class {
    fn of(layout: Layout) -> Option<Self> {
        if layout.align() > GRAIN {
            let size = layout
                .size()
                .max(layout.align())
                .checked_next_power_of_two()?;
            return Some(Self::Aligned {
                power: size.trailing_zeros() as usize,
                size,
            });
        }
        let grains = layout.size().max(1).checked_next_multiple_of(GRAIN)? / GRAIN;
        if grains <= 4 {
            return Some(Self::Small {
                index: grains - 1,
                size: grains * GRAIN,
            });
        }
        // Between two powers of two lie three more classes: the top three bits choose one.
        let below = grains - 1;
        let shift = below.ilog2() - 2;
        let top = (below >> shift) + 1;
        let size = top.checked_mul(1 << shift)?.checked_mul(GRAIN)?;
        Some(Self::Small {
            index: shift as usize * 4 + top - 1,
            size,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::Small { size, .. } | Self::Aligned { size, .. } => size,
        }
    }

    fn align(self) -> usize {
        match self {
            Self::Small { .. } => GRAIN,
            Self::Aligned { size, .. } => size,
        }
    }
}

impl<M: Memory> Heap<M> {
    pub(crate) const fn new(memory: M) -> Self {
        Self {
            memory,
            free: [0; CLASSES],
            free_aligned: [0; usize::BITS as usize],
            next: 0,
            end: 0,
        }
    }

    /// Hands out a block; null when there is no memory left.
    pub(crate) fn allocate(&mut self, layout: Layout) -> *mut u8 {
        let Some(class) = Class::of(layout) else {
            return ptr::null_mut();
        };
        let head = *self.list(class);
        if head == 0 {
            return self.carve(class);
        }
        let block = ptr::with_exposed_provenance_mut::<usize>(head);
        // SAFETY: Only `release` fills the lists, with blocks of this class that are at least one grain long,
        // aligned to it, and whose first word it wrote.
        *self.list(class) = unsafe { block.read() };
        block.cast()
    }

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// `block` came from this heap with the same layout, and is not used any more.
    pub(crate) unsafe fn release(&mut self, block: *mut u8, layout: Layout) {
        let Some(class) = Class::of(layout) else {
            return;
        };
        let head = *self.list(class);
        // SAFETY: The block is free, at least one grain long and aligned to it.
        unsafe { block.cast::<usize>().write(head) };
        *self.list(class) = block.expose_provenance();
    }

    /// Whether a block of `old` serves for `new` where it lies; the newest block is stretched if there is room.
    pub(crate) fn fits_in_place(&mut self, block: *mut u8, old: Layout, new: Layout) -> bool {
        let (Some(old), Some(new)) = (Class::of(old), Class::of(new)) else {
            return false;
        };
        if old == new {
            return true;
        }
        let is_newest = block.addr() + old.size() == self.next;
        let is_stretchable = matches!(
            (old, new),
            (Class::Small { .. }, Class::Small { .. }) if new.size() > old.size()
        );
        if is_newest && is_stretchable && new.size() - old.size() <= self.end - self.next {
            self.next += new.size() - old.size();
            return true;
        }
        false
    }

    fn list(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Small { index, .. } => &mut self.free[index],
            Class::Aligned { power, .. } => &mut self.free_aligned[power],
        }
    }

    /// Cuts a new block from what was never handed out.
    #[cold]
    fn carve(&mut self, class: Class) -> *mut u8 {
        if self.end == 0 {
            let (start, end) = self.memory.initial();
            self.next = start.next_multiple_of(GRAIN);
            self.end = end;
        }
        loop {
            let start = self.next.checked_next_multiple_of(class.align());
            let after = start.and_then(|start| start.checked_add(class.size()));
            let (Some(start), Some(after)) = (start, after) else {
                return ptr::null_mut();
            };
            if after <= self.end {
                self.next = after;
                return ptr::with_exposed_provenance_mut(start);
            }
            let pages = (after - self.end).div_ceil(PAGE);
            let Some(grown) = self.memory.grow(pages) else {
                return ptr::null_mut();
            };
            if grown != self.end {
                // Somebody else grew the memory: what was left before the gap is given up.
                self.next = grown;
            }
            self.end = grown + pages * PAGE;
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod global {
    //! The heap of a plugin.

    use std::{
        alloc::{GlobalAlloc, Layout},
        arch::wasm32,
        cell::UnsafeCell,
        ptr,
    };

    use super::{Heap, Memory, PAGE};

    #[cfg(target_feature = "atomics")]
    compile_error!("the allocator is for one thread; build plugins without the `atomics` feature");

    unsafe extern "C" {
        /// The linker puts it where the module's own data ends.
        static __heap_base: u8;
    }

    #[derive(Debug)]
    struct Linear;

    impl Memory for Linear {
        fn initial(&mut self) -> (usize, usize) {
            let base = (&raw const __heap_base).expose_provenance();
            (base, wasm32::memory_size::<0>() * PAGE)
        }

        fn grow(&mut self, pages: usize) -> Option<usize> {
            match wasm32::memory_grow::<0>(pages) {
                usize::MAX => None,
                before => Some(before * PAGE),
            }
        }
    }

    struct Global(UnsafeCell<Heap<Linear>>);

    // SAFETY: The module has one thread: no `atomics`, which is checked above.
    unsafe impl Sync for Global {}

    #[global_allocator]
    static GLOBAL: Global = Global(UnsafeCell::new(Heap::new(Linear)));

    // SAFETY: Blocks are as large and as aligned as their layouts ask (`Class`), no two overlap, and neither
    // method unwinds or calls the allocator.
    unsafe impl GlobalAlloc for Global {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: One thread, and no method of the heap calls back.
            let heap = unsafe { &mut *self.0.get() };
            heap.allocate(layout)
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: As in `alloc`.
            let heap = unsafe { &mut *self.0.get() };
            // SAFETY: The caller hands back what it got.
            unsafe { heap.release(block, layout) };
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: The caller keeps `size` below what a layout may have.
            let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
            // SAFETY: As in `alloc`.
            let heap = unsafe { &mut *self.0.get() };
            if heap.fits_in_place(block, layout, new) {
                return block;
            }
            let moved = heap.allocate(new);
            if !moved.is_null() {
                // SAFETY: Both blocks are at least so long, and differ.
                unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
                // SAFETY: The caller gave up the old block.
                unsafe { heap.release(block, layout) };
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests;
