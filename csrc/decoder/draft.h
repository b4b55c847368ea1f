// SPDX-License-Identifier: Apache-2.0
// Drafting: guesses of the next ids, which the decoder then checks several at a time. A guess changes how
// fast a text is written, never what is written.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "decoder/transformer.h"

namespace edge {

// What usually follows which words: a trie over contexts read backwards, one level per earlier id. Node 0 is
// the empty context. The children of node i are the nodes [children[i], children[i + 1]), sorted by `tokens`,
// the id that stands before the context of i; kTextBegin where the text begins there. Views: the owner of the
// arrays must outlive them.
struct DraftArrays {
  std::span<const int32_t> children;  // [nodes + 1]
  std::span<const int32_t> tokens;    // [nodes]
  std::span<const int32_t> next;      // [nodes] the id that follows the context most often
  std::span<const float> share;       // [nodes] how often it does, above 0 and up to 1
};

inline constexpr int32_t kTextBegin = -1;

class DraftTable {
 public:
  struct Guess {
    int32_t id = 0;
    float share = 0.0f;
  };

  // Throws std::invalid_argument unless the arrays are such a trie over ids below `vocab`.
  DraftTable(const DraftArrays& arrays, int64_t vocab);

  int64_t nodes() const { return static_cast<int64_t>(arrays_.tokens.size()); }
  int64_t vocab() const { return vocab_; }
  // What follows the longest end of `text` that the table knows.
  Guess guess(std::span<const int32_t> text) const;

 private:
  DraftArrays arrays_;
  int64_t vocab_;
};

// Cost of a pass over so many rows, in passes over one row; [0] is not used.
using PassCosts = std::array<float, kMaxRows + 1>;

// Where drafts come from.
class Drafter {
 public:
  virtual ~Drafter() = default;
  // Up to `limit` ids that may follow `text`; valid until the next call.
  virtual std::span<const int32_t> draft(std::span<const int32_t> text, int64_t limit) = 0;
  // How many passes over a sketch that took so far.
  virtual int64_t sketch_passes() const { return 0; }
  // Of the last draft the first `accepted` ids were right; `refuted`: the one after them was not.
  virtual void verified(int64_t accepted, bool refuted) = 0;
};

// Drafts from a table and from what the text itself holds already, as long as they are likely to pay.
class TextDrafter : public Drafter {
 public:
  // `table` may be null. No draft goes beyond one of the `ends` (stop ids and suppressed ids).
  TextDrafter(const DraftTable* table, std::vector<int32_t> ends, const PassCosts& costs);

  std::span<const int32_t> draft(std::span<const int32_t> text, int64_t limit) override;
  void verified(int64_t accepted, bool refuted) override;

 private:
  // Of the guesses of one kind and share: how many were checked and how many right.
  struct Record {
    int32_t tried = 0, right = 0;
  };
  struct Guess {
    int32_t id;
    float chance;
    Record* record;
  };
  static constexpr int kGrades = 8;
  static constexpr int kKinds = 2;  // table, own text

  bool guess(size_t found, float share, Guess& out);
  float chance(int kind, float share, Record*& record);
  size_t find_earlier(size_t& longest) const;

  const DraftTable* table_;
  std::vector<int32_t> ends_;  // sorted
  PassCosts costs_;
  std::array<std::array<Record, kGrades>, kKinds> records_{};
  std::vector<int32_t> text_;  // the text, then the draft
  std::vector<Record*> drafted_;
  float tokens_, cost_;  // gained and paid so far
};

// Proposals fixed in advance, by the number of ids generated before: for tests and measurements.
class ScriptedDrafter : public Drafter {
 public:
  ScriptedDrafter(std::vector<std::vector<int32_t>> script, int64_t prompt)
      : script_(std::move(script)), prompt_(prompt) {}
  std::span<const int32_t> draft(std::span<const int32_t> text, int64_t limit) override;
  void verified(int64_t, bool) override {}

 private:
  std::vector<std::vector<int32_t>> script_;
  int64_t prompt_;
};

}  // namespace edge
