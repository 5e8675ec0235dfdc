/* A CUDA device that computes nothing: LD_PRELOAD it into a CUDA build of torch on a machine without a GPU.
 *
 * Memory is real host memory (reserved, so 141 GB cost nothing until touched), copies are made, kernels and cuBLAS, cuDNN and
 * NCCL calls are counted and left out. So torch's own code on the host runs as it would: device checks, allocator, streams,
 * copies, waits, launches. Numbers that kernels would have made are whatever lies in memory, mostly zeros.
 * NULLCUDA_DEVICES: how many GPUs (1). NULLCUDA_GB: memory of each (141). NULLCUDA_ZEROS: what is read back in copies of at most so
 * many bytes is 0 (none).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "driver_types.h"

typedef int R; /* cudaError_t and the like */
enum { SYNC_STREAM, SYNC_DEVICE, SYNC_EVENT, H2D_PAGEABLE, H2D_PINNED, D2H_PAGEABLE, D2H_PINNED, D2D, MEMSET, MALLOC, HOSTALLOC, LAUNCH, BLAS, DNN, NCCL, QUERY, KINDS };
static uint64_t counts[KINDS], amounts[KINDS];
static void (*told)(int, uint64_t, const char *);
static uint32_t wanted = 0; /* bits of kinds that the callback hears of */
uint64_t nullcuda_count(int k) { return counts[k]; }
uint64_t nullcuda_bytes(int k) { return amounts[k]; }
void nullcuda_reset(void) { memset(counts, 0, sizeof counts); memset(amounts, 0, sizeof amounts); }
void nullcuda_listen(void (*f)(int, uint64_t, const char *), uint32_t kinds) { told = f; wanted = kinds; }
/* what is read back in copies up to this size is 0: no kernel has made it */
static uint64_t zeros(void) {
    static int64_t n = -1;
    if (n < 0) { const char *s = getenv("NULLCUDA_ZEROS"); n = s ? atoll(s) : 0; }
    return n;
}
static void note(int kind, uint64_t bytes, const char *name) {
    __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&amounts[kind], bytes, __ATOMIC_RELAXED);
    if (told && (wanted >> kind & 1)) told(kind, bytes, name);
}

/* devices */
static int devices(void) {
    static int n = -1;
    if (n < 0) {
        const char *s = getenv("NULLCUDA_DEVICES"), *v = getenv("CUDA_VISIBLE_DEVICES");
        n = s ? atoi(s) : 1;
        if (v) { int k = *v ? 1 : 0; for (const char *c = v; *c; c++) k += *c == ','; if (k < n) n = k; if (!strcmp(v, "-1")) n = 0; }
    }
    return n;
}
static uint64_t total(void) { const char *s = getenv("NULLCUDA_GB"); return (uint64_t)((s ? atof(s) : 141.0) * 1e9); }
static __thread int current;
R cudaGetDeviceCount(int *n) { *n = devices(); return devices() ? 0 : 100; }
R cudaGetDevice(int *d) { *d = current; return 0; }
R cudaSetDevice(int d) { if (d < 0 || d >= devices()) return 101; current = d; return 0; }
R cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H200 (null)");
    p->totalGlobalMem = total(); p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536; p->warpSize = 32; p->memPitch = 2147483647;
    p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->totalConstMem = 65536; p->major = 9; p->minor = 0;
    p->textureAlignment = 512; p->multiProcessorCount = 132; p->canMapHostMemory = 1; p->concurrentKernels = 1; p->asyncEngineCount = 3;
    p->unifiedAddressing = 1; p->memoryBusWidth = 6144; p->l2CacheSize = 62914560; p->maxThreadsPerMultiProcessor = 2048;
    p->streamPrioritiesSupported = 1; p->sharedMemPerMultiprocessor = 233472; p->regsPerMultiprocessor = 65536; p->managedMemory = 1;
    p->cooperativeLaunch = 1; p->sharedMemPerBlockOptin = 232448; p->maxBlocksPerMultiProcessor = 32; p->pciBusID = d; p->clusterLaunch = 1;
    return 0;
}
R cudaDeviceGetAttribute(int *v, int a, int d) {
    *v = 0;
    switch (a) {
    case 1: case 2: case 3: *v = 1024; break; case 4: *v = 64; break; case 5: *v = 2147483647; break; case 6: case 7: *v = 65535; break;
    case 8: *v = 49152; break; case 10: *v = 32; break; case 12: *v = 65536; break; case 16: *v = 132; break; case 39: *v = 2048; break;
    case 75: *v = 9; break; case 76: *v = 0; break; case 81: *v = 233472; break; case 82: *v = 65536; break; case 97: *v = 232448; break;
    case 38: *v = 62914560; break; case 41: *v = 1; break; case 106: *v = 32; break; case 95: *v = 1; break;
    }
    return 0;
}
R cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
R cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
R cudaDeviceCanAccessPeer(int *v, int a, int b) { *v = 1; return 0; }
R cudaDeviceGetStreamPriorityRange(int *low, int *high) { if (low) *low = 0; if (high) *high = -5; return 0; }
R cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", d); return 0; }
const char *cudaGetErrorString(R e) { return e ? "null device error" : "no error"; }
const char *cudaGetErrorName(R e) { return e ? "cudaErrorNull" : "cudaSuccess"; }
R cudaGetLastError(void) { return 0; }
R cudaPeekAtLastError(void) { return 0; }
static int nothing(void) { return 0; }
R cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned v, unsigned long long fl, int *q) {
    void *own = dlsym(RTLD_DEFAULT, n); *f = own ? own : (void *)nothing; if (q) *q = 0; return 0;
}

/* memory */
typedef struct { char *at; size_t size; int device; } Piece;
static Piece pieces[1 << 16];
static int n_pieces;
static uint64_t used[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *take(size_t size, int device) {
    char *p = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    pthread_mutex_lock(&lock);
    pieces[n_pieces++] = (Piece){p, size, device};
    if (device >= 0) used[device] += size;
    pthread_mutex_unlock(&lock);
    return p;
}
static void give(void *p) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_pieces; i++)
        if (pieces[i].at == p) {
            munmap(p, pieces[i].size ? pieces[i].size : 1);
            if (pieces[i].device >= 0) used[pieces[i].device] -= pieces[i].size;
            pieces[i] = pieces[--n_pieces];
            break;
        }
    pthread_mutex_unlock(&lock);
}
static int where(const void *p) { /* device >= 0, -1 pinned, -2 pageable */
    int found = -2;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_pieces; i++)
        if ((char *)p >= pieces[i].at && (char *)p < pieces[i].at + pieces[i].size) { found = pieces[i].device; break; }
    pthread_mutex_unlock(&lock);
    return found;
}
R cudaMalloc(void **p, size_t n) {
    if (used[current] + n > total()) return 2;
    note(MALLOC, n, "cudaMalloc");
    return (*p = take(n, current)) ? 0 : 2;
}
R cudaMallocAsync(void **p, size_t n, void *s) { return cudaMalloc(p, n); }
R cudaFree(void *p) { if (p) give(p); return 0; }
R cudaFreeAsync(void *p, void *s) { return cudaFree(p); }
R cudaHostAlloc(void **p, size_t n, unsigned f) { note(HOSTALLOC, n, "cudaHostAlloc"); return (*p = take(n, -1)) ? 0 : 2; }
R cudaFreeHost(void *p) { give(p); return 0; }
R cudaHostRegister(void *p, size_t n, unsigned f) { pthread_mutex_lock(&lock); pieces[n_pieces++] = (Piece){p, n, -1}; pthread_mutex_unlock(&lock); return 0; }
R cudaHostUnregister(void *p) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_pieces; i++) if (pieces[i].at == p) { pieces[i] = pieces[--n_pieces]; break; }
    pthread_mutex_unlock(&lock);
    return 0;
}
R cudaMemGetInfo(size_t *f, size_t *t) { *t = total(); *f = total() - used[current]; return 0; }
R cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    int w = where(p);
    memset(a, 0, sizeof *a);
    a->type = w >= 0 ? cudaMemoryTypeDevice : w == -1 ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    a->device = w >= 0 ? w : 0;
    if (w >= 0) a->devicePointer = (void *)p;
    if (w == -1) a->hostPointer = a->devicePointer = (void *)p;
    return 0;
}
static void copy(void *to, const void *from, size_t n) {
    int a = where(to), b = where(from);
    int kind = a >= 0 ? (b >= 0 ? D2D : b == -1 ? H2D_PINNED : H2D_PAGEABLE) : (b >= 0 ? (a == -1 ? D2H_PINNED : D2H_PAGEABLE) : -1);
    if (kind >= 0) note(kind, n, "copy");
    if ((kind == D2H_PAGEABLE || kind == D2H_PINNED) && n <= zeros()) memset(to, 0, n);
    else memmove(to, from, n);
}
R cudaMemcpy(void *to, const void *from, size_t n, int k) { copy(to, from, n); note(SYNC_STREAM, 0, "cudaMemcpy"); return 0; }
R cudaMemcpyAsync(void *to, const void *from, size_t n, int k, void *s) { copy(to, from, n); return 0; }
R cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n, void *s) { copy(to, from, n); return 0; }
R cudaMemcpyToSymbol(const void *sym, const void *from, size_t n, size_t off, int k) { return 0; }
R cudaMemset(void *p, int v, size_t n) { note(MEMSET, n, "memset"); if (n <= 1 << 20) memset(p, v, n); return 0; }
R cudaMemsetAsync(void *p, int v, size_t n, void *s) { return cudaMemset(p, v, n); }
R cudaGetSymbolAddress(void **p, const void *sym) { static void *room; if (!room) room = take(1 << 20, 0); *p = room; return 0; }

/* streams and events: all is done at once */
static uintptr_t handle = 0x1000;
static void *fresh(void) { return (void *)__atomic_add_fetch(&handle, 16, __ATOMIC_RELAXED); }
R cudaStreamCreate(void **s) { *s = fresh(); return 0; }
R cudaStreamCreateWithFlags(void **s, unsigned f) { *s = fresh(); return 0; }
R cudaStreamCreateWithPriority(void **s, unsigned f, int p) { *s = fresh(); return 0; }
R cudaStreamDestroy(void *s) { return 0; }
R cudaStreamGetPriority(void *s, int *p) { *p = 0; return 0; }
R cudaStreamSynchronize(void *s) { note(SYNC_STREAM, 0, "cudaStreamSynchronize"); return 0; }
R cudaDeviceSynchronize(void) { note(SYNC_DEVICE, 0, "cudaDeviceSynchronize"); return 0; }
R cudaStreamQuery(void *s) { note(QUERY, 0, "cudaStreamQuery"); return 0; }
R cudaStreamWaitEvent(void *s, void *e, unsigned f) { return 0; }
R cudaStreamIsCapturing(void *s, int *c) { *c = 0; return 0; }
R cudaStreamGetCaptureInfo(void *s, int *c, unsigned long long *id, void *g, void *d, void *e, size_t *n) { if (c) *c = 0; if (id) *id = 0; if (n) *n = 0; return 0; }
R cudaThreadExchangeStreamCaptureMode(int *m) { return 0; }
R cudaStreamAddCallback(void *s, void (*f)(void *, R, void *), void *data, unsigned fl) { f(s, 0, data); return 0; }
R cudaLaunchHostFunc(void *s, void (*f)(void *), void *data) { f(data); return 0; }
R cudaEventCreate(void **e) { *e = fresh(); return 0; }
R cudaEventCreateWithFlags(void **e, unsigned f) { *e = fresh(); return 0; }
R cudaEventDestroy(void *e) { return 0; }
R cudaEventRecord(void *e, void *s) { return 0; }
R cudaEventRecordWithFlags(void *e, void *s, unsigned f) { return 0; }
R cudaEventQuery(void *e) { return 0; }
R cudaEventSynchronize(void *e) { note(SYNC_EVENT, 0, "cudaEventSynchronize"); return 0; }
R cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = 0.001f; return 0; }

/* kernels */
#define SLOTS (1 << 20)
static struct { const void *stub; const char *name; } *table;
static void *fat[2];
void **__cudaRegisterFatBinary(void *p) { if (!table) table = calloc(SLOTS, sizeof *table); return fat; }
void __cudaRegisterFatBinaryEnd(void **p) {}
void __cudaUnregisterFatBinary(void **p) {}
void __cudaRegisterVar(void **p, char *h, char *d, const char *n, int e, size_t s, int c, int g) {}
static uint64_t slot(const void *p) { return ((uint64_t)p * 0x9E3779B97F4A7C15ull) >> 44; }
void __cudaRegisterFunction(void **p, const char *stub, char *fun, const char *name, int limit, void *t, void *b, void *bd, void *gd, int *w) {
    uint64_t i = slot(stub);
    if (!table) table = calloc(SLOTS, sizeof *table);
    while (table[i].stub) i = (i + 1) % SLOTS;
    table[i].stub = stub; table[i].name = name;
}
static const char *named(const void *p) {
    if (!table) return "?";
    for (uint64_t i = slot(p); table[i].stub; i = (i + 1) % SLOTS) if (table[i].stub == p) return table[i].name;
    return "?";
}
R __cudaGetKernel(void **k, const void *stub) { *k = (void *)stub; return 0; }
R __cudaLaunchKernel(void *k) { note(LAUNCH, 0, named(k)); return 0; }
R cudaLaunchKernel(const void *k) { note(LAUNCH, 0, named(k)); return 0; }
R cudaLaunchKernelExC(const void *config, const void *k, void **args) { note(LAUNCH, 0, named(k)); return 0; }
unsigned __cudaPushCallConfiguration(void) { return 0; }
R __cudaPopCallConfiguration(unsigned *g, unsigned *b, size_t *s, void *st) { g[0] = g[1] = g[2] = b[0] = b[1] = b[2] = 1; if (s) *s = 0; if (st) *(void **)st = 0; return 0; }
R cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) { memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->ptxVersion = a->binaryVersion = 90; a->maxDynamicSharedSizeBytes = 232448; return 0; }
R cudaFuncSetAttribute(const void *f, int a, int v) { return 0; }
R cudaKernelSetAttributeForDevice(void *k, int a, int v, int d) { return 0; }
R cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned fl) { *n = 2; return 0; }

/* driver */
R cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { if (f) *f = 0; if (a) *a = 1; return 0; }
R cuCtxGetCurrent(void **c) { static int x; *c = &x; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuInit(unsigned f) { return 0; }
R cuGetErrorString(int e, const char **s) { *s = "null"; return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { return cudaDeviceGetAttribute(v, a, d); }

/* libraries with answers */
R cublasCreate_v2(void **h) { *h = fresh(); return 0; }
R cublasLtCreate(void **h) { *h = fresh(); return 0; }
R cublasGetMathMode(void *h, int *m) { *m = 0; return 0; }
R cublasGetPointerMode_v2(void *h, int *m) { *m = 0; return 0; }
size_t cublasLtGetVersion(void) { return 130100; }
#define MADE(f) R f(void **h) { *h = fresh(); return 0; }
MADE(cublasLtMatmulDescCreate) MADE(cublasLtMatrixLayoutCreate) MADE(cublasLtMatmulPreferenceCreate)
R cublasLtMatmulAlgoGetHeuristic(void *l, void *d, void *a, void *b, void *c, void *e, void *p, int n, char *found, int *got) { memset(found, 0, 96); *got = 1; return 0; }
#define GEMM(f) R f(void) { note(BLAS, 0, #f); return 0; }
GEMM(cublasSgemm_v2) GEMM(cublasDgemm_v2) GEMM(cublasGemmEx) GEMM(cublasSgemmEx) GEMM(cublasSgemmStridedBatched) GEMM(cublasDgemmStridedBatched)
GEMM(cublasGemmStridedBatchedEx) GEMM(cublasLtMatmul) GEMM(cublasSgemv_v2) GEMM(cublasDgemv_v2) GEMM(cublasSdot_v2) GEMM(cublasDotEx)
size_t cudnnGetVersion(void) { const char *s = getenv("NULLCUDA_CUDNN"); return s ? atoi(s) : 92400; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int e) { return ""; }
R cudnnCreate(void **h) { *h = fresh(); return 0; }
R ncclGetVersion(int *v) { *v = 23007; return 0; }
R ncclGetUniqueId(char *id) { memset(id, 7, 128); return 0; }
typedef struct { char id[128]; } Id;
static int size_of, rank_of;
R ncclCommInitRankConfig(void **c, int n, Id id, int r, void *cfg) { *c = fresh(); size_of = n; rank_of = r; return 0; }
R ncclCommInitRank(void **c, int n, Id id, int r) { *c = fresh(); size_of = n; rank_of = r; return 0; }
R ncclCommGetAsyncError(void *c, int *e) { *e = 0; return 0; }
R ncclCommCount(void *c, int *n) { *n = size_of; return 0; }
R ncclCommUserRank(void *c, int *r) { *r = rank_of; return 0; }
const char *ncclGetErrorString(int e) { return ""; }
const char *ncclGetLastError(void *c) { return ""; }
#define TALK(f) R f(void) { note(NCCL, 0, #f); return 0; }
/* all ranks are taken to hold what this one holds; sums are not made */
static size_t width(int t) { return t == 4 || t == 5 || t == 8 ? 8 : t == 2 || t == 3 || t == 7 ? 4 : t == 6 || t == 9 ? 2 : 1; }
R ncclAllGather(const void *from, void *to, size_t n, int t, void *c, void *s) {
    note(NCCL, n * width(t), "ncclAllGather");
    for (int r = 0; r < size_of; r++) if ((char *)to + r * n * width(t) != from) memmove((char *)to + r * n * width(t), from, n * width(t));
    return 0;
}
R ncclAllReduce(const void *from, void *to, size_t n, int t, int op, void *c, void *s) { note(NCCL, n * width(t), "ncclAllReduce"); if (to != from) memmove(to, from, n * width(t)); return 0; }
R ncclBroadcast(const void *from, void *to, size_t n, int t, int root, void *c, void *s) { note(NCCL, n * width(t), "ncclBroadcast"); if (to != from) memmove(to, from, n * width(t)); return 0; }
R ncclReduceScatter(const void *from, void *to, size_t n, int t, int op, void *c, void *s) { note(NCCL, n * width(t), "ncclReduceScatter"); return 0; }
TALK(ncclReduce) TALK(ncclSend) TALK(ncclRecv)
#include "stubs.inc"
