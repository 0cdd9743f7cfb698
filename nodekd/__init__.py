"""Tensors in, tensors out: ODE students, ResNet teachers, distillation and attacks. Knows nothing of studies."""
