// The C++ side's view of the device: a handful of calls into `portable_mps.runtime.bridge`.
//
// Every function takes the GIL; none may be called while a C++ lock is held.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace portable_mps::runtime {

inline c10::Device mps_device() { return {c10::DeviceType::MPS, 0}; }

// RuntimeError for an index that names no device; -1 is the current one.
void check_index(c10::DeviceIndex index);

// Open the device, which sets the recorder.
void open();

// Device address of a new buffer of `bytes` bytes, or 0 when the driver has no memory left.
uint64_t create_slab(size_t bytes);
void destroy_slab(uint64_t address);

// Return the host memory that collectives keep for later.
void free_host_buffers();

// Bytes that the adapter's own memory holds; opens the device.
size_t device_memory();

// Bytes of it that nobody uses; opens the device.
size_t free_memory();

// Bytes that the driver promises to give in one allocation, and the most that a buffer may have;
// opens the device.
std::pair<size_t, size_t> allocation_limits();

// Whether the adapter computes in float64; opens the device.
bool has_float64();

// Record a device-to-device copy of `bytes` bytes.
void copy(uint64_t destination, uint64_t source, size_t bytes);

void synchronize();
// Hand what is recorded to the device without waiting for it.
void commit();

// Events are positions in the one in-order stream; `timed` ones carry a device timestamp.
uint64_t record_event(bool timed);
bool query_event(uint64_t event);
void synchronize_event(uint64_t event);
double elapsed_milliseconds(uint64_t start, uint64_t end);

// Adapters that could be opened; 0 where there is no Vulkan driver. Opens no device.
int adapter_count() noexcept;

}  // namespace portable_mps::runtime
