"""Networks: ResNets, pre-activation ResNets with or without damping, and Neural-ODE students."""
