#pragma once

// Makes `device` the calling thread's as long as it lives. Throws CudaError where there is no such device or
// no driver.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};
