"""Networks: ResNet teachers and Neural-ODE students."""
