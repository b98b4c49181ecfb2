# What comes of the defaults, and what a few variables change. Plans only: nothing is made.

run "the_defaults_are_for_production" {
  command = plan

  variables {
    certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
  }

  assert {
    condition     = aws_msk_cluster.this.number_of_broker_nodes == 3
    error_message = "There is a broker in each of three zones."
  }

  assert {
    condition     = strcontains(aws_msk_configuration.this.server_properties, "min.insync.replicas=2")
    error_message = "What is acknowledged is on two brokers at least."
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "Each zone has a way out of its own."
  }

  assert {
    condition     = aws_elasticache_replication_group.this.multi_az_enabled && aws_elasticache_replication_group.this.transit_encryption_enabled
    error_message = "The cache outlives a zone, and is spoken to by TLS."
  }

  assert {
    condition     = aws_lb_listener.tls[0].protocol == "HTTPS" && length(aws_lb_listener.inside) == 0
    error_message = "There is TLS, and nothing else."
  }

  assert {
    condition     = length(aws_acm_certificate.this) == 0
    error_message = "A certificate that was brought is not made again."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : repository.image_tag_mutability == "IMMUTABLE"])
    error_message = "A tag means one image for ever."
  }
}

run "without_functions_there_is_no_deployer" {
  command = plan

  assert {
    condition     = length(aws_ecs_task_definition.deployer) == 0 && output.deploy_command == null
    error_message = "There is nothing that it could deploy."
  }
}

run "without_a_certificate_it_is_inside" {
  command = plan

  assert {
    condition     = aws_lb.this.internal && length(aws_lb_listener.tls) == 0
    error_message = "A gateway without TLS is not on the internet."
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.clients : rule.cidr_ipv4 == var.vpc_cidr])
    error_message = "Only the VPC reaches it."
  }
}

run "two_zones_take_what_one_broker_has" {
  command = plan

  variables {
    zones              = 2
    single_nat_gateway = true
    cache_replicas     = 0
  }

  assert {
    condition     = strcontains(aws_msk_configuration.this.server_properties, "min.insync.replicas=1")
    error_message = "With two brokers, one may be away."
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.private) == 2
    error_message = "Both zones go out by the one gateway."
  }

  assert {
    condition     = !aws_elasticache_replication_group.this.automatic_failover_enabled
    error_message = "There is nothing to fail over to."
  }
}

run "hosts_close_the_metadata_address" {
  command = plan

  assert {
    condition     = aws_launch_template.host.metadata_options[0].http_tokens == "required" && aws_launch_template.host.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "Metadata is by tokens that do not survive a hop."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.host.user_data), "-t raw -I PREROUTING -d 169.254.0.0/16 -j DROP")
    error_message = "What comes from a container's network does not reach it."
  }
}

run "what_is_kept_for_ever_has_no_age" {
  command = plan

  variables {
    retention_days = 0
  }

  assert {
    condition     = !anytrue([for rule in aws_s3_bucket_lifecycle_configuration.tasks.rule : contains(["leftover-payloads", "leftover-results", "leftover-logs"], rule.id)])
    error_message = "Nothing of a task goes by age."
  }
}
