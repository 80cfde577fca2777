// The part of Slang's C++ interface that csrc/slang.cpp calls, so that building needs none of its
// headers. Names, values and the order of methods are those of slang.h 2026.12, the release that
// slangpy 0.43.1 brings; methods that are not called only keep their place.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef _WIN32
#define SLANG_MCALL __stdcall
#else
#define SLANG_MCALL
#endif

namespace portable_mps::slang {

constexpr uint32_t SLANG_API_VERSION = 0;
constexpr uint32_t SLANG_LANGUAGE_VERSION_2025 = 2025;
constexpr int SLANG_SPIRV = 6;
constexpr uint32_t SLANG_TARGET_FLAG_GENERATE_SPIRV_DIRECTLY = 1u << 10;

enum class CompilerOptionName : int {
  Include = 6,
  MatrixLayoutRow = 9,
  DisableWarning = 22,
  FloatingPointMode = 43,
  DebugInformation = 44,
  Optimization = 46,
  GLSLForceScalarLayout = 55,
  LoopInversion = 105,
};

struct CompilerOptionValue {
  int kind = 0;  // 0: intValue0; 1: stringValue0
  int32_t intValue0 = 0;
  int32_t intValue1 = 0;
  const char* stringValue0 = nullptr;
  const char* stringValue1 = nullptr;
};

struct CompilerOptionEntry {
  CompilerOptionName name;
  CompilerOptionValue value;
};

struct TargetDesc {
  size_t structureSize = sizeof(TargetDesc);
  int format = SLANG_SPIRV;
  uint32_t profile = 0;
  uint32_t flags = SLANG_TARGET_FLAG_GENERATE_SPIRV_DIRECTLY;
  uint32_t floatingPointMode = 0;
  uint32_t lineDirectiveMode = 0;
  bool forceGLSLScalarBufferLayout = true;
  const CompilerOptionEntry* compilerOptionEntries = nullptr;
  uint32_t compilerOptionEntryCount = 0;
};

struct SessionDesc {
  size_t structureSize = sizeof(SessionDesc);
  const TargetDesc* targets = nullptr;
  int64_t targetCount = 0;
  uint32_t flags = 0;
  uint32_t defaultMatrixLayoutMode = 1;  // by rows
  const char* const* searchPaths = nullptr;
  int64_t searchPathCount = 0;
  const void* preprocessorMacros = nullptr;
  int64_t preprocessorMacroCount = 0;
  void* fileSystem = nullptr;
  bool enableEffectAnnotations = false;
  bool allowGLSLSyntax = false;
  const CompilerOptionEntry* compilerOptionEntries = nullptr;
  uint32_t compilerOptionEntryCount = 0;
  bool skipSPIRVValidation = false;
};

struct GlobalSessionDesc {
  uint32_t structureSize = sizeof(GlobalSessionDesc);
  uint32_t apiVersion = SLANG_API_VERSION;
  uint32_t minLanguageVersion = SLANG_LANGUAGE_VERSION_2025;
  bool enableGLSL = false;
  uint32_t reserved[16] = {};
};

struct ISlangUnknown {
  virtual int32_t SLANG_MCALL queryInterface(const void* uuid, void** object) = 0;
  virtual uint32_t SLANG_MCALL addRef() = 0;
  virtual uint32_t SLANG_MCALL release() = 0;
};

struct ISlangBlob : ISlangUnknown {
  virtual const void* SLANG_MCALL getBufferPointer() = 0;
  virtual size_t SLANG_MCALL getBufferSize() = 0;
};

struct IComponentType : ISlangUnknown {
  virtual void SLANG_MCALL getSession() = 0;
  virtual void* SLANG_MCALL getLayout(int64_t targetIndex, ISlangBlob** diagnostics) = 0;
  virtual void SLANG_MCALL getSpecializationParamCount() = 0;
  virtual int32_t SLANG_MCALL getEntryPointCode(int64_t entryPointIndex, int64_t targetIndex,
                                                ISlangBlob** code, ISlangBlob** diagnostics) = 0;
  virtual void SLANG_MCALL getResultAsFileSystem() = 0;
  virtual void SLANG_MCALL getEntryPointHash() = 0;
  virtual void SLANG_MCALL specialize() = 0;
  virtual int32_t SLANG_MCALL link(IComponentType** linked, ISlangBlob** diagnostics) = 0;
  virtual void SLANG_MCALL getEntryPointHostCallable() = 0;
  virtual void SLANG_MCALL renameEntryPoint() = 0;
  virtual void SLANG_MCALL linkWithOptions() = 0;
  virtual void SLANG_MCALL getTargetCode() = 0;
  virtual void SLANG_MCALL getTargetMetadata() = 0;
  virtual void SLANG_MCALL getEntryPointMetadata() = 0;
};

struct IModule : IComponentType {
  virtual int32_t SLANG_MCALL findEntryPointByName(const char* name, IComponentType** entry) = 0;
};

struct ISession : ISlangUnknown {
  virtual void SLANG_MCALL getGlobalSession() = 0;
  virtual void SLANG_MCALL loadModule() = 0;
  virtual void SLANG_MCALL loadModuleFromSource() = 0;
  virtual int32_t SLANG_MCALL createCompositeComponentType(IComponentType* const* components,
                                                           int64_t count,
                                                           IComponentType** composite,
                                                           ISlangBlob** diagnostics) = 0;
  virtual void SLANG_MCALL specializeType() = 0;
  virtual void SLANG_MCALL getTypeLayout() = 0;
  virtual void SLANG_MCALL getContainerType() = 0;
  virtual void SLANG_MCALL getDynamicType() = 0;
  virtual void SLANG_MCALL getTypeRTTIMangledName() = 0;
  virtual void SLANG_MCALL getTypeConformanceWitnessMangledName() = 0;
  virtual void SLANG_MCALL getTypeConformanceWitnessSequentialID() = 0;
  virtual void SLANG_MCALL createCompileRequest() = 0;
  virtual void SLANG_MCALL createTypeConformanceComponentType() = 0;
  virtual void SLANG_MCALL loadModuleFromIRBlob() = 0;
  virtual void SLANG_MCALL getLoadedModuleCount() = 0;
  virtual void SLANG_MCALL getLoadedModule() = 0;
  virtual void SLANG_MCALL isBinaryModuleUpToDate() = 0;
  // The session keeps the module: it is not the caller's to release.
  virtual IModule* SLANG_MCALL loadModuleFromSourceString(const char* name, const char* path,
                                                          const char* text,
                                                          ISlangBlob** diagnostics) = 0;
};

struct IGlobalSession : ISlangUnknown {
  virtual int32_t SLANG_MCALL createSession(const SessionDesc& description, ISession** session) = 0;
  virtual uint32_t SLANG_MCALL findProfile(const char* name) = 0;
};

using EntryPointByIndex = void* (*)(void* layout, uint64_t index);
using ThreadGroupSize = void (*)(void* entry, uint64_t axes, uint64_t* sizes);
using CreateGlobalSession = int32_t (*)(const GlobalSessionDesc*, IGlobalSession**);

}  // namespace portable_mps::slang
