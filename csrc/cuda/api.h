// SPDX-License-Identifier: Apache-2.0
// The border between the Python module and the CUDA library: C types only. The library exports edge_cuda_api
// and nothing else; whoever opens it asks for the ABI that it was written for.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_CUDA_ABI 3u
#define EDGE_CUDA_ENTRY "edge_cuda_api"

enum EdgeCudaStatus {
  EDGE_CUDA_OK = 0,
  EDGE_CUDA_NO_DEVICE = 1,    // no driver, no device, or one that this build does not run on
  EDGE_CUDA_NO_MEMORY = 2,    // not enough memory on the device
  EDGE_CUDA_UNSUPPORTED = 3,  // a model that the kernels do not take
  EDGE_CUDA_FAILED = 4,       // anything else
};

enum EdgeCudaType { EDGE_CUDA_F32, EDGE_CUDA_F16, EDGE_CUDA_BF16, EDGE_CUDA_I8, EDGE_CUDA_I4 };

// Why a call failed: one sentence.
typedef struct {
  char text[256];
} EdgeCudaReason;

typedef struct {
  char name[128];
  int32_t major, minor;  // compute capability
  int64_t total_bytes, free_bytes;
  unsigned char uuid[16];
  int32_t processors;
} EdgeCudaDevice;

// A matrix [rows, cols] in host memory: f32; i8 with float scale [rows]; i4 with half scale [rows, cols /
// 32].
typedef struct {
  const void* data;
  const void* scale;
  const float* bias;  // [rows] or null
  int64_t rows, cols;
  int32_t type;
} EdgeCudaMatrix;

typedef struct {
  const float* weight;
  const float* bias;
} EdgeCudaNorm;

typedef struct {
  EdgeCudaNorm attn_norm, mlp_norm;
  EdgeCudaMatrix qkv, attn_out, mlp_in, mlp_out;
  int32_t evidence;  // 1: this layer's attention over the prefix is gathered
} EdgeCudaLayer;

typedef struct {
  int64_t layers, hidden, heads, head_dim, mlp, vocab, max_positions, position_offset;
  float norm_eps;
  int32_t gelu_erf;  // 0: the tanh form
  const float* positions;
  EdgeCudaMatrix embed, head;  // head.data is null where the embedding is the head
  EdgeCudaNorm final_norm;
  const EdgeCudaLayer* layer;
  int32_t float_type;  // how f32 matrices are kept on the device: f32, f16 or bf16
  int32_t cache_type;  // f32, f16 or i8
  int32_t persistent;  // the cooperative kernel; 0: not, 1: to be made ready, 2: where the device takes it
} EdgeCudaModel;

// Returns 0 to end the text.
typedef int (*EdgeCudaOnToken)(void* user, int32_t id, float logprob);
// Returns 1 where the text is to end.
typedef int (*EdgeCudaCancelled)(void* user);
// Writes up to `limit` ids that may follow what on_token saw, and returns how many: they are checked in the
// next pass.
typedef int64_t (*EdgeCudaDraft)(void* user, int32_t* ids, int64_t limit);

enum EdgeCudaEnd {
  EDGE_CUDA_RUNNING = 0,
  EDGE_CUDA_STOP,
  EDGE_CUDA_LENGTH,
  EDGE_CUDA_CANCELLED,
  EDGE_CUDA_NOT_FINITE
};

// A greedy text after what is in the cache, chosen on the device.
typedef struct {
  const float* first_logits;  // [vocab], or null: those of the last row appended
  int32_t persistent;         // by the cooperative kernel, which has been made ready
  int32_t bias;               // its rows get the key bias
  int32_t max_new;            // at least 1
  float penalty;
  const int32_t* stop;
  int64_t stops;
  const int32_t* suppressed;
  int64_t suppresseds;
  EdgeCudaOnToken on_token;
  EdgeCudaCancelled cancelled;
  EdgeCudaDraft draft;  // or null: one row per pass
  void* user;
} EdgeCudaGreedy;

typedef struct {
  uint32_t abi;
  uint32_t bytes;  // of this table
  int (*probe)(EdgeCudaDevice*, EdgeCudaReason*);
  int (*create)(const EdgeCudaModel*, void** decoder, EdgeCudaReason*);
  void (*destroy)(void* decoder);
  // Whether the cooperative kernel has been made ready.
  int (*has_persistent)(void* decoder);
  // keys and values [layers, heads, length, head_dim]; key_bias [layers, bias_length] or null, over the first
  // bias_length keys. All in host memory; or, with on_device, all in the memory of the decoder's device, and
  // complete, or being written by the default stream, for which this waits.
  int (*set_prefix)(void* decoder, const float* keys, const float* values, int64_t length,
                    const float* key_bias, int64_t bias_length, int32_t on_device, EdgeCudaReason*);
  // Appends 1 to 16 rows after `text_rows` rows of text. logits [n - from, vocab] or null; evidence
  // [n - from, prefix] or null.
  int (*append)(void* decoder, const int32_t* ids, int64_t n, int64_t text_rows, int32_t bias, int64_t from,
                float* logits, float* evidence, EdgeCudaReason*);
  // The text after `text_rows` rows. `end` is an EdgeCudaEnd, `evidence` [capacity, prefix] or null is filled
  // for the tokens that on_token saw.
  int (*generate)(void* decoder, const EdgeCudaGreedy*, int64_t text_rows, int32_t* end, float* evidence,
                  EdgeCudaReason*);
  // Memory and a stream of the device, for whoever runs the vision graph there and has no CUDA of its own.
  int (*allocate)(int64_t bytes, void** p, EdgeCudaReason*);
  void (*release)(void* p);
  int (*copy)(void* to, const void* from, int64_t bytes, int32_t to_device, EdgeCudaReason*);
  int (*open_stream)(void** stream, EdgeCudaReason*);
  int (*wait_stream)(void* stream, EdgeCudaReason*);
  void (*close_stream)(void* stream);
  // What `work` starts on the stream from this thread, recorded instead of done; it returns 0 where it
  // failed.
  int (*record)(void* stream, int (*work)(void* user), void* user, void** graph, EdgeCudaReason*);
  int (*replay)(void* graph, void* stream, EdgeCudaReason*);
  void (*forget)(void* graph);
  // Bytes read and written per second while memory of the device is copied within it, in GB/s; the best pass.
  int (*copy_bandwidth)(int64_t bytes, double* gbps, EdgeCudaReason*);
} EdgeCudaApi;

// Null: the library does not speak this ABI.
typedef const EdgeCudaApi* (*EdgeCudaEntry)(uint32_t abi);

#ifdef __cplusplus
}
#endif
