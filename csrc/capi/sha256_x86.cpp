// SPDX-License-Identifier: Apache-2.0
// SHA-256 with the SHA extensions of x86 (Intel SDM, SHA256RNDS2, SHA256MSG1, SHA256MSG2): four rounds per
// step.
#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

namespace edge::capi {

bool sha256_has_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 9)) || !(c & (1u << 19)))
    return false;  // SSSE3, SSE4.1
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

// The attribute, not a flag of the file: nothing else here may use what the processor might lack.
__attribute__((target("sha,sse4.1,ssse3"))) void sha256_blocks_x86(Sha256State& state, const std::byte* data,
                                                                   size_t blocks) {
  const auto word = [&](size_t i) { return static_cast<int>(state[i]); };
  // The instructions want the words a, b, e, f in one register and c, d, g, h in the other, the first on top.
  __m128i abef = _mm_set_epi32(word(0), word(1), word(4), word(5));
  __m128i cdgh = _mm_set_epi32(word(2), word(3), word(6), word(7));
  const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];  // the last 16 words of the schedule, four in each
    for (size_t i = 0; i < 16; ++i) {
      __m128i& now = w[i % 4];
      if (i < 4) {
        now = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i), big_endian);
      } else {
        // now holds words t-16 to t-13; the others follow in turn, up to t-1.
        const __m128i second = w[(i + 1) % 4], third = w[(i + 2) % 4], last = w[(i + 3) % 4];
        now = _mm_sha256msg1_epu32(now, second);
        now = _mm_add_epi32(now, _mm_alignr_epi8(last, third, 4));
        now = _mm_sha256msg2_epu32(now, last);
      }
      const __m128i round = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kSha256Rounds.data()) + i);
      const __m128i input = _mm_add_epi32(now, round);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, input);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(input, 0x0E));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const auto take = [&](size_t i, int value) { state[i] = static_cast<uint32_t>(value); };
  take(0, _mm_extract_epi32(abef, 3)), take(1, _mm_extract_epi32(abef, 2));
  take(4, _mm_extract_epi32(abef, 1)), take(5, _mm_extract_epi32(abef, 0));
  take(2, _mm_extract_epi32(cdgh, 3)), take(3, _mm_extract_epi32(cdgh, 2));
  take(6, _mm_extract_epi32(cdgh, 1)), take(7, _mm_extract_epi32(cdgh, 0));
}

}  // namespace edge::capi

#else

namespace edge::capi {

bool sha256_has_instructions() { return false; }
void sha256_blocks_x86(Sha256State& state, const std::byte* data, size_t blocks) {
  sha256_blocks_plain(state, data, blocks);
}

}  // namespace edge::capi

#endif
