/* A libcuda.so.1 without a device, so that cuDNN can finish plans for devices that are only described: loading compiled
 * kernels succeeds and gives handles that nobody can launch; everything else answers CUDA_ERROR_STUB_LIBRARY. */
#include <stddef.h>

enum { SUCCESS = 0, STUB_LIBRARY = 34, VERSION = 13000 };

static char somewhere;

/* Gives out a handle through its first argument. */
#define GIVES(name)                                                                                                    \
    int name(void **out);                                                                                              \
    int name(void **out) {                                                                                             \
        *out = &somewhere;                                                                                             \
        return SUCCESS;                                                                                                \
    }
/* Answers a question about a kernel with 0. */
#define TELLS(name)                                                                                                    \
    int name(int *out);                                                                                                \
    int name(int *out) {                                                                                               \
        *out = 0;                                                                                                      \
        return SUCCESS;                                                                                                \
    }
#define ACCEPTS(name)                                                                                                  \
    int name(void);                                                                                                    \
    int name(void) {                                                                                                   \
        return SUCCESS;                                                                                                \
    }
#define REFUSES(name)                                                                                                  \
    int name(void);                                                                                                    \
    int name(void) {                                                                                                   \
        return STUB_LIBRARY;                                                                                           \
    }

GIVES(cuLibraryLoadData)
GIVES(cuLibraryGetKernel)
GIVES(cuLibraryGetModule)
GIVES(cuKernelGetFunction)
GIVES(cuModuleLoadData)
GIVES(cuModuleLoadDataEx)
GIVES(cuModuleGetFunction)
TELLS(cuFuncGetAttribute)
TELLS(cuKernelGetAttribute)
ACCEPTS(cuLibraryUnload)
ACCEPTS(cuModuleUnload)
ACCEPTS(cuFuncSetAttribute)
ACCEPTS(cuKernelSetAttribute)
REFUSES(cuInit)
REFUSES(cuGetErrorName)
REFUSES(cuGetErrorString)
REFUSES(cuCtxGetCurrent)
REFUSES(cuCtxGetLimit)
REFUSES(cuCtxPopCurrent)
REFUSES(cuCtxPushCurrent)
REFUSES(cuStreamGetCtx)
REFUSES(cuLinkCreate)
REFUSES(cuLinkAddData)
REFUSES(cuLinkComplete)
REFUSES(cuLinkDestroy)
REFUSES(cuLaunchKernel)
REFUSES(cuLaunchKernelEx)
REFUSES(cuLaunchCooperativeKernel)
REFUSES(cuDeviceGetCount)
REFUSES(cuDeviceGet)
REFUSES(cuLibraryLoadFromFile)
REFUSES(cuOccupancyMaxPotentialClusterSize)

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return SUCCESS;
}

/* The runtime library asks for everything by name; it gets nothing to work with. */
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status);
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    (void)name;
    (void)version;
    (void)flags;
    *function = NULL;
    if (status != NULL) {
        *status = 1;
    }
    return STUB_LIBRARY;
}
