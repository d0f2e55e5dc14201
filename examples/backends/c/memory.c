// Memory for one call. It is taken and never given back: the host throws the instance away.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern unsigned char __heap_base;

static uintptr_t next = 0;

static const size_t ALIGNMENT = 16;
static const size_t PAGE = 65536;

void *malloc(size_t size) {
  if (next == 0) {
    next = (uintptr_t)&__heap_base;
  }
  uintptr_t start = (next + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
  uintptr_t end = start + size;
  // What does not fit into an address ends the call, as memory that the host does not give.
  if (end < start) {
    __builtin_trap();
  }
  uintptr_t have = __builtin_wasm_memory_size(0) * PAGE;
  if (end > have) {
    size_t pages = (end - have + PAGE - 1) / PAGE;
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) {
      __builtin_trap();
    }
  }
  next = end;
  return (void *)start;
}

void free(void *memory) { (void)memory; }

// Of `memory` no size is known. What lies behind it up to the new block is this program's own.
void *realloc(void *memory, size_t size) {
  uintptr_t old = (uintptr_t)memory;
  void *moved = malloc(size);
  if (memory != NULL) {
    size_t reach = (uintptr_t)moved - old;
    memcpy(moved, memory, size < reach ? size : reach);
  }
  return moved;
}
