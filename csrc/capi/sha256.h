// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4): a bundle is hashed as a whole before anything in it is parsed, so the time to open a
// large one is this. Processors with instructions for it use them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace edge::capi {

using Sha256State = std::array<uint32_t, 8>;
// Takes so many blocks of 64 bytes into the state.
using Sha256Blocks = void (*)(Sha256State& state, const std::byte* data, size_t blocks);

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
extern const std::array<uint32_t, 64> kSha256Rounds;

void sha256_blocks_plain(Sha256State& state, const std::byte* data, size_t blocks);
// Only where sha256_has_instructions().
void sha256_blocks_x86(Sha256State& state, const std::byte* data, size_t blocks);
bool sha256_has_instructions();
// The best of them on this machine.
Sha256Blocks sha256_blocks();

// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> data, Sha256Blocks blocks = sha256_blocks());

}  // namespace edge::capi
