"""Solve dy/dt = f(t, y) over [0, horizon] with fixed or adaptive Runge-Kutta methods."""
