/* The C functions that TensorRT's Python bindings import, so that the real bindings load where libnvinfer is not.
 *
 * As it is, every function that makes something returns NULL, which is what TensorRT does where CUDA does not start.
 * Where SHIM_BUILDER and SHIM_PARSER name TensorRT-RTX's two libraries, the calls go there: its interfaces are those of
 * TensorRT 11, so the bindings of 11.4 then parse and build for real. Its own version number takes the place of the
 * one that the bindings pass, which it would refuse.
 *
 * Built once for each library that the bindings name, under that name; see real_bindings.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define BUILDER "SHIM_BUILDER"
#define PARSER "SHIM_PARSER"

static void *find(const char *variable, const char *name) {
    const char *path = getenv(variable);
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
    return library ? dlsym(library, name) : NULL;
}

static int32_t ask(const char *variable, const char *name) {
    int32_t (*number)(void) = (int32_t(*)(void))find(variable, name);
    return number ? number() : 0;
}

#define MAKE(name)                                                                        \
    void *name(void *from, int32_t version) {                                             \
        void *(*call)(void *, int32_t) = (void *(*)(void *, int32_t))find(BUILDER, #name); \
        (void)version;                                                                    \
        return call ? call(from, ask(BUILDER, "getInferLibVersion")) : NULL;              \
    }

#define MAKE_PARSER(name)                                                                        \
    void *name(void *from, void *logger, int32_t version) {                                      \
        void *(*call)(void *, void *, int32_t) =                                                 \
            (void *(*)(void *, void *, int32_t))find(PARSER, #name);                             \
        (void)version;                                                                           \
        return call ? call(from, logger, ask(PARSER, "getNvOnnxParserVersion")) : NULL;          \
    }

#define GET(name)                                                     \
    void *name(void) {                                                \
        void *(*call)(void) = (void *(*)(void))find(BUILDER, #name);  \
        return call ? call() : NULL;                                  \
    }

MAKE(createInferBuilder_INTERNAL)
MAKE(createInferRuntime_INTERNAL)
MAKE(createInferRefitter_INTERNAL)
MAKE_PARSER(createNvOnnxParser_INTERNAL)
MAKE_PARSER(createNvOnnxParserRefitter_INTERNAL)
GET(getPluginRegistry)
GET(getBuilderPluginRegistry)

int32_t getNvOnnxParserVersion(void) { return ask(PARSER, "getNvOnnxParserVersion"); }
int32_t getInferLibVersion(void) { return ask(BUILDER, "getInferLibVersion"); }
int32_t initLibNvInferPlugins(void) { return 1; }

/* Of TensorRT 8 only: its Caffe and UFF parsers, by their C++ names. */
void *_ZN14nvcaffeparser117createCaffeParserEv(void) { return NULL; }
void _ZN14nvcaffeparser123shutdownProtobufLibraryEv(void) {}
void *_ZN11nvuffparser15createUffParserEv(void) { return NULL; }
void _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi(void) {}
