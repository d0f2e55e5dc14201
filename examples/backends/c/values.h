// The contract's values, made in a line each.
//
// A call has an instance of its own, so nothing that is made is ever given back, and a string of the
// program serves as it is. For that, `malloc` of this folder only counts upwards (memory.c).

#ifndef VALUES_H
#define VALUES_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tee_backend.h"

typedef tee_backend_string_t string;
typedef casemate_tee_types_property_t property;
typedef casemate_tee_types_typed_t typed;
typedef casemate_tee_types_finding_t finding;
typedef casemate_tee_types_error_t error;
typedef casemate_tee_facts_fact_error_t fact_error;

// A list of the contract from values that are written out: LIST(list, type, a, b).
#define LIST(list, type, ...)                                                  \
  do {                                                                         \
    const type values_[] = {__VA_ARGS__};                                      \
    (list).len = sizeof values_ / sizeof values_[0];                           \
    (list).ptr = malloc(sizeof values_);                                       \
    memcpy((list).ptr, values_, sizeof values_);                               \
  } while (0)

static inline string text(const char *words) {
  return (string){(uint8_t *)words, strlen(words)};
}

static inline bool is(string found, const char *words) {
  return found.len == strlen(words) && memcmp(found.ptr, words, found.len) == 0;
}

static inline bool begins(string found, const char *words) {
  size_t length = strlen(words);
  return found.len >= length && memcmp(found.ptr, words, length) == 0;
}

static inline property switched_on(const char *path) {
  return (property){
      text(path),
      {.tag = CASEMATE_TEE_TYPES_VALUE_BOOLEAN, .val = {.boolean = true}}};
}

// Text of others for a message: what could end a line or drive a terminal is left out.
string quoted(string found);
// `before`, `found` and `after` in one.
string joined(const char *before, string found, const char *after);

#endif
