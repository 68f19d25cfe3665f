//! The Linux kernel: observe, apply and watch what hostnet describes.
